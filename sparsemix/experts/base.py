"""What experts are, and what those built on a kernel share: casting under autocast, fan-in initialisation."""

from __future__ import annotations

from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from sparsemix.routing import Dispatch, Routing

T = TypeVar("T", Tensor, Tensor | None)


class Experts(Protocol):
    """E functions of a token, each applied to its own rows."""

    @property
    def num_experts(self) -> int:
        """E."""
        ...

    def __call__(self, x_TD: Tensor, dispatch: Dispatch) -> tuple[Tensor, tuple[Routing, ...]]:
        """(y_TD, inner): the sum of w_n f_e(x_t) over each token's live rows n; routings of mixtures inside, usually
        none."""
        ...


@runtime_checkable
class OneTokenExperts(Protocol):
    """Experts that can do without a dispatch where there is nothing to sort, as in generation."""

    def one_token(self, x_1D: Tensor, routing: Routing) -> Tensor | None:
        """The weighted sum of a lone token, (1, D), straight from its routing; None: let it be sorted like any."""
        ...


def autocast(device: torch.device, tensor: T) -> T:
    """The tensor in autocast's dtype where that is on, as `nn.Linear` would see it (float64 stays); custom autograd
    does not."""
    if tensor is None or tensor.dtype == torch.float64 or not torch.is_autocast_enabled(device.type):
        return tensor
    return tensor.to(torch.get_autocast_dtype(device.type))


@torch.no_grad()
def init_fan_in(weight: nn.Parameter) -> None:
    """Normal with variance 1 / fan-in, the last axis: outputs keep the scale of inputs."""
    nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)
