"""What a router is, and the wide arithmetic that every router with parameters keeps whatever the model's dtype."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from sparsemix.balance import Loss
from sparsemix.checks import check
from sparsemix.kernels import at_least_float32
from sparsemix.routing import Routing, TokenInfo


class RouterConfig(Protocol):
    """What every router's config says of it."""

    @property
    def causal(self) -> bool:
        """Whether a token's routing is free of any influence of later tokens."""
        ...

    @property
    def balances_itself(self) -> bool:
        """Whether its experts are loaded evenly, or need not be, without any loss and without any state."""
        ...

    def edges_per_token(self, num_experts: int) -> float:
        """Experts that a token goes to, on average or by design."""
        ...

    def losses(self, num_experts: int) -> tuple[Loss, ...]:
        """The balance losses of its paper, with their coefficients."""
        ...

    def build(self, dim: int, num_experts: int) -> Router:
        """The router over x of width `dim`."""
        ...


class KExperts:
    """For configs of routers that give each token k experts."""

    k: int

    def edges_per_token(self, num_experts: int) -> float:
        """k."""
        return self.k


class SelfBalanced:
    """For configs of routers whose experts are loaded evenly, or need not be, without any loss."""

    balances_itself = True

    def losses(self, num_experts: int) -> tuple[Loss, ...]:
        """None."""
        return ()


class Router(Protocol):
    """Decides which experts each token goes to, and with what weight."""

    @property
    def num_experts(self) -> int:
        """E, the number of columns of its scores."""
        ...

    @property
    def causal(self) -> bool:
        """Whether a token's routing is free of any influence of later tokens."""
        ...

    def __call__(self, x_TD: Tensor, info: TokenInfo | None = None, previous: Routing | None = None) -> Routing: ...

    def statistic(self, routing: Routing) -> Tensor | None:
        """What `update` needs of a routing; additive over micro-batches and ranks. None: nothing to update."""
        ...

    def update(self, total: Tensor) -> None:
        """Adapt the router's state to the summed statistic, once an optimiser step."""
        ...


class Stateless:
    """For routers that follow no load."""

    def statistic(self, routing: Routing) -> Tensor | None:
        """None."""

    def update(self, total: Tensor) -> None:
        """Never called."""
        raise AssertionError("there is no state to update")


@runtime_checkable
class ResidualRouter(Protocol):
    """A router that says whether it builds on `previous`; where it does not, nobody keeps that routing for it."""

    @property
    def reads_previous(self) -> bool: ...


class WideModule(nn.Module):
    """A module that `.half()` and `.to(torch.bfloat16)` move but do not narrow.

    A selection bias of 1.0 in bfloat16 does not change when 0.001 is added to it, and softmax over bfloat16 logits
    changes which expert wins; so parameters and buffers stay in float32, or float64 if so asked.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> WideModule:
        def keep_wide(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            narrowed = moved.is_floating_point() and moved.element_size() < min(4, tensor.element_size())
            return tensor.to(moved.device) if narrowed else moved

        return super()._apply(keep_wide, recurse)


def wide_dtype(x: Tensor | None = None) -> torch.dtype:
    """float32, or float64 for a float64 input or, without an input, where that is torch's default."""
    return at_least_float32(torch.get_default_dtype() if x is None else x.dtype)


def valid_tokens(info: TokenInfo | None, num_tokens: int) -> Tensor | None:
    """`info.valid_T`, bool (T,); None where there is no padding.

    Raises:
        ValueError: it is not bool (a mask of 0 and 1 would be taken for indices) or not of shape (T,).
    """
    if info is None or info.valid_T is None:
        return None
    valid_T = info.valid_T
    check(
        valid_T.dtype == torch.bool and valid_T.shape == (num_tokens,),
        "info.valid_T",
        f"must be bool of shape ({num_tokens},), an entry a token",
        f"{valid_T.dtype} of shape {tuple(valid_T.shape)}",
        "pass mask.bool().flatten()",
    )
    return valid_T


def live_edges(info: TokenInfo | None, token_N: Tensor, num_tokens: int) -> Tensor | None:
    """bool (N,): False for edges of padding; None where there is no padding. Raises as `valid_tokens`."""
    valid_T = valid_tokens(info, num_tokens)
    return None if valid_T is None else valid_T[token_N]
