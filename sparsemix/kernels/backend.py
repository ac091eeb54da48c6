"""Which implementation computes the experts, chosen by what the tensors and the machine allow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

from torch import Tensor

from sparsemix.checks import check
from sparsemix.kernels import cpu, native
from sparsemix.kernels.activations import Activation
from sparsemix.kernels.weights import ExpertWeights, Gradients, Needs
from sparsemix.routing import Dispatch

BackendName = Literal["auto", "reference", "cpu", "native"]


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
    """The back end of that name; `auto` is `native` on a GPU where it can serve the tensors, and `cpu` elsewhere.

    Raises:
        ValueError: `native` was asked for and cannot serve the type or the sizes of the tensors.
    """
    refusal = native.refuses(x_TD, weights)
    asked = "the config asks for it"
    match name:
        case "reference":
            return Choice("reference", asked, None)
        case "cpu":
            return Choice("cpu", asked, cpu)
        case "native":
            check(not refusal, "backend", "native must be able to serve the tensors", refusal, "use backend='auto'")
            return Choice("native", asked, native.BACKEND)
        case "auto":
            if not x_TD.is_cuda:
                return Choice("cpu", f"the device is {x_TD.device}", cpu)
            if refusal:
                return Choice("cpu", f"grouped_mm refuses {refusal}", cpu)
            return Choice("native", "grouped_mm can serve the sizes and the type", native.BACKEND)
