"""Capacity: how many tokens an expert takes, and who is served first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from sparsemix.config import config
from sparsemix.routing import Routing, drop_over_capacity

Rounding = Literal["up", "down", "nearest"]


@config
class CapacityConfig:
    """An expert takes at most factor T k / E tokens; the edges beyond are dropped, and the token does without them."""

    factor: float = Field(1.25, gt=0)
    """In training; 1 is just enough for a uniform load."""
    factor_eval: float | None = Field(None, gt=0)
    """In evaluation; none: dropless."""
    priority: Literal["position", "token", "probability"] = "position"
    """First choices before second ones, and among these by position or by the token's largest gate (batch prioritised
    routing of V-MoE); or larger gates first, whichever choice they are (Megatron)."""
    count_choices: bool = True
    """Whether k belongs to the formula; GShard's and T5X's codes leave it out: factor T / E."""
    rounding: Rounding = "up"
    """To a whole number of tokens."""
    multiple_of: int = Field(1, ge=1)
    """Then further up to a multiple (V-MoE: 4)."""
    minimum: int = Field(1, ge=1)
    """Never fewer (Mesh TensorFlow: 4); 0 would crash the decoding of one token."""
    group_size: int | None = Field(None, ge=1)
    """Consecutive tokens that are served for themselves, with a capacity of their own; none: the whole batch."""

    def places(self, num_tokens: int, k: int, num_experts: float, factor: float) -> int:
        """Edges that one of so many like experts takes of so many tokens."""
        choices = num_tokens * (k if self.count_choices else 1)
        share = round(factor * choices / num_experts, 6)  # 1.1 * 10 is a hair above 11 in floating point
        whole = {"up": math.ceil, "down": math.floor, "nearest": round}[self.rounding](share)
        return max(self.minimum, self.multiple_of * math.ceil(whole / self.multiple_of))

    def limit(
        self, routing: Routing, num_tokens: int, num_experts: int, training: bool, sizes: Sequence[float] | None = None
    ) -> Routing:
        """The routing of k edges a token without those beyond the capacity.

        Args:
            routing: with `edges_per_token`.
            num_tokens: T.
            num_experts: E.
            training: which of the two factors.
            sizes: what each expert is to take, relative to the others (MoE++: less of what costs more); none: all
                the same.
        """
        factor = self.factor if training else self.factor_eval
        k = routing.edges_per_token
        assert k is not None, "a capacity is a share of T k"
        if factor is None or num_tokens == 0:
            return routing
        size = min(self.group_size or num_tokens, num_tokens)
        num_groups = math.ceil(num_tokens / size)
        places: int | Tensor = self.places(size, k, num_experts, factor)
        if sizes is not None:
            each = [self.places(size, k, sum(sizes) / own, factor) for own in sizes]
            places = torch.tensor(each * num_groups, device=routing.expert_N.device)
        order_N = self._order(routing.weight_N.detach().view(-1, k))
        queue_N = routing.token_N // size * num_experts + routing.expert_N
        return drop_over_capacity(routing, num_groups * num_experts, places, order_N, queue_N)

    def _order(self, weight_TK: Tensor) -> Tensor:
        """The edges, which lie token by token, in serving order; ties by position."""
        if self.priority == "probability":
            return _falling(weight_TK.flatten())
        num_tokens, k = weight_TK.shape
        edge_TK = torch.arange(num_tokens * k, device=weight_TK.device).view(num_tokens, k)
        if self.priority == "token":
            edge_TK = edge_TK[_falling(weight_TK.amax(-1))]
        return edge_TK.T.reshape(-1)


def limited(
    capacity: CapacityConfig | None,
    routing: Routing,
    num_tokens: int,
    num_experts: int,
    training: bool,
    sizes: Sequence[float] | None = None,
) -> Routing:
    """`CapacityConfig.limit`, or the routing as it is where there is no capacity."""
    return routing if capacity is None else capacity.limit(routing, num_tokens, num_experts, training, sizes)


class Limited:
    """For configs of routers of k experts a token that may have a capacity."""

    k: int
    capacity: CapacityConfig | None

    @property
    def causal(self) -> bool:
        """False where a capacity lets a later token take an earlier one's place in an expert."""
        return keeps_causality(self.capacity, self.k)


def keeps_causality(capacity: CapacityConfig | None, k: int) -> bool:
    """Whether k choices a token stay free of any influence of later tokens under this capacity.

    For k > 1 they do not, whatever the priority: a later token's first choice is served before an earlier one's second.
    That the capacity grows with the number of tokens does not count: it tells nothing of what they are.
    """
    return capacity is None or (k == 1 and capacity.priority == "position")


def _falling(x: Tensor) -> Tensor:
    return x.argsort(descending=True, stable=True)
