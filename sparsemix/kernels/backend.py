"""Which implementation computes the experts, chosen by what the tensors and the machine allow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Protocol

from torch import Tensor

from sparsemix.checks import check
from sparsemix.kernels import cpp, cpu, native, triton
from sparsemix.kernels.activations import Activation, Custom
from sparsemix.kernels.weights import ExpertWeights, Gradients, Needs
from sparsemix.routing import Dispatch

BackendName = Literal["auto", "reference", "cpp", "cpu", "native", "triton"]


class Backend(Protocol):
    """The expert MLP and its gradients, both without autograd."""

    def forward(
        self, x_TD: Tensor, dispatch: Dispatch, weights: ExpertWeights, activation: Activation
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """(y_TO, saved): the combined outputs, and the pre-activation, in as many pieces as suits the back end."""
        ...

    def backward(
        self,
        dy_TO: Tensor,
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


def choose_backend(
    name: BackendName, x_TD: Tensor, weights: ExpertWeights, activation: Activation | None = None
) -> Choice:
    """The back end of that name; `auto` is the first that can: of `cpp` and `cpu`, on a GPU of `native` and `triton`.

    Args:
        name: which is asked for.
        x_TD: tokens.
        weights: of the experts.
        activation: between the projections; None: one that every back end computes.

    Raises:
        ValueError: the one asked for cannot serve the tensors or the activation.
    """
    asked = "the config asks for it"
    uncompiled = "an activation that is a function of PyTorch's" if isinstance(activation, Custom) else ""
    match name:
        case "reference":
            return Choice("reference", asked, None)
        case "cpu":
            return Choice("cpu", asked, cpu)
        case "cpp":
            return _if_it_can(name, uncompiled or cpp.refuses(x_TD, *weights), lambda: cpp)
        case "native":
            return _if_it_can(name, native.refuses(x_TD, weights), lambda: native.BACKEND)
        case "triton":
            return _if_it_can(name, uncompiled or triton.refuses(x_TD, weights), _triton)
        case "auto":
            return _first_that_can(x_TD, weights, uncompiled)


def _if_it_can(name: BackendName, refusal: str, ops: Callable[[], Backend]) -> Choice:
    check(not refusal, "backend", f"{name} must be able to serve the tensors", refusal, "use backend='auto'")
    return Choice(name, "the config asks for it", ops())


def _first_that_can(x_TD: Tensor, weights: ExpertWeights, uncompiled: str) -> Choice:
    if not x_TD.is_cuda:
        of_cpp = uncompiled or cpp.refuses(x_TD, *weights)
        return Choice("cpu", f"cpp refuses {of_cpp}", cpu) if of_cpp else Choice("cpp", "float32 on a CPU", cpp)
    of_native, of_triton = native.refuses(x_TD, weights), uncompiled or triton.refuses(x_TD, weights)
    if not of_native:
        return Choice("native", "grouped_mm can serve the sizes and the type", native.BACKEND)
    if not of_triton:
        return Choice("triton", f"grouped_mm refuses {of_native}", _triton())
    return Choice("cpu", f"grouped_mm refuses {of_native}, and triton {of_triton}", cpu)


def _triton() -> Backend:
    from sparsemix.kernels.triton import backend  # where it is used, since it imports Triton

    return backend
