"""What experts are, and what their kinds share: rows of an expert, casting under autocast, initialisation."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from sparsemix.checks import check
from sparsemix.kernels import combine
from sparsemix.routing import Dispatch, Routing

T = TypeVar("T", Tensor, Tensor | None)


class Experts(Protocol):
    """E functions of a token, or of an item with more axes, each applied to its own rows."""

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
def init_fan_in(module: nn.Module) -> None:
    """Biases zero; else normal with variance 1 / fan-in, the last axis: outputs keep the scale of inputs."""
    for name, parameter in module.named_parameters():
        if "bias" in name:
            nn.init.zeros_(parameter)
        else:
            nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)


def check_keeps_width(kind: str, dim: int, out_dim: int | None) -> None:
    """Raise `ValueError` where experts that give back what they get are asked for another width."""
    rule, remedy = f"{kind} experts keep the width {dim}", "leave it out, or use experts with projections"
    check(out_dim in (None, dim), "out_dim", rule, out_dim, remedy)


def check_vectors(x: Tensor) -> None:
    """Raise `ValueError` where experts of vectors are given items with more axes."""
    check(x.ndim == 2, "x", "must be vectors (T, D) for these experts", f"shape {tuple(x.shape)}", "set item_dims=1")


def live_weights(dispatch: Dispatch) -> Tensor:
    """The combine weights, (N,), 0 where a row is dead."""
    if dispatch.all_live:
        return dispatch.weight_N
    row_N = torch.arange(len(dispatch.weight_N), device=dispatch.bounds.device)
    return torch.where(row_N < dispatch.bounds[-1], dispatch.weight_N, 0)


def live_rows(x: Tensor, dispatch: Dispatch, bounds: Sequence[int]) -> tuple[Tensor, ...]:
    """The items that each expert, or range of experts, gets: x (T, *item) gathered and cut at these bounds."""
    sizes = [end - start for start, end in pairwise(bounds)]
    return x.index_select(0, dispatch.token_N[: bounds[-1]]).split(sizes)


def combine_live(rows: Tensor, dispatch: Dispatch, num_tokens: int) -> Tensor:
    """`combine` of live rows (R, *item) alone, already weighted; (T, *item)."""
    dead = rows.new_zeros(len(dispatch.token_N) - len(rows), *rows.shape[1:])
    flat = torch.cat([rows, dead]).flatten(1)
    return combine(flat, dispatch, num_tokens).unflatten(1, rows.shape[1:])
