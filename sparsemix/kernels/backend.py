"""Which implementation computes the experts, chosen by what the tensors and the machine allow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

from torch import Tensor

from sparsemix.checks import check
from sparsemix.kernels import cpu, native, triton
from sparsemix.kernels.activations import Activation
from sparsemix.kernels.weights import ExpertWeights, Gradients, Needs
from sparsemix.routing import Dispatch

BackendName = Literal["auto", "reference", "cpu", "native", "triton"]


class Backend(Protocol):
    """The expert MLP and its gradients, both without autograd."""

    def forward(
        self, x_TD: Tensor, dispatch: Dispatch, weights: ExpertWeights, activation: Activation
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """(y_TD, saved): the combined outputs, and the pre-activation, in as many pieces as suits the back end."""
        ...

    def backward(
        self,
        dy_TD: Tensor,
        x_TD: Tensor,
        saved: Sequence[Tensor],
        dispatch: Dispatch,
        weights: ExpertWeights,
        activation: Activation,
        needs: Needs,
    ) -> Gradients:
        """The gradients that are needed."""
        ...


class Choice(NamedTuple):
    """A back end, and why it was chosen."""

    name: str
    reason: str
    ops: Backend | None
    """None for the reference, which is a loop under autograd."""


def choose_backend(name: BackendName, x_TD: Tensor, weights: ExpertWeights) -> Choice:
    """The back end of that name; `auto` is `cpu` on a CPU, and on a GPU the first of `native` and `triton` that can.

    Raises:
        ValueError: the one asked for cannot serve the tensors.
    """
    asked = "the config asks for it"
    match name:
        case "reference":
            return Choice("reference", asked, None)
        case "cpu":
            return Choice("cpu", asked, cpu)
        case "native" | "triton":
            refusal = (native if name == "native" else triton).refuses(x_TD, weights)
            check(not refusal, "backend", f"{name} must be able to serve the tensors", refusal, "use backend='auto'")
            return Choice(name, asked, native.BACKEND if name == "native" else _triton())
        case "auto":
            return _first_that_can(x_TD, weights)


def _first_that_can(x_TD: Tensor, weights: ExpertWeights) -> Choice:
    if not x_TD.is_cuda:
        return Choice("cpu", f"the device is {x_TD.device}", cpu)
    of_native, of_triton = native.refuses(x_TD, weights), triton.refuses(x_TD, weights)
    if not of_native:
        return Choice("native", "grouped_mm can serve the sizes and the type", native.BACKEND)
    if not of_triton:
        return Choice("triton", f"grouped_mm refuses {of_native}", _triton())
    return Choice("cpu", f"grouped_mm refuses {of_native}, and triton {of_triton}", cpu)


def _triton() -> Backend:
    from sparsemix.kernels.triton import backend  # where it is used, since it imports Triton

    return backend
