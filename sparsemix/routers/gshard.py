"""GShard routing: the best expert, and by chance a second one."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from sparsemix.balance import Loss, SwitchLoss
from sparsemix.config import config
from sparsemix.routers.base import Stateless
from sparsemix.routers.capacity import CapacityConfig, keeps_causality, limited
from sparsemix.routers.linear import LinearRouter
from sparsemix.routers.score import jitter, over_sum
from sparsemix.routers.select import best, check_k, keep, token_choice
from sparsemix.routing import Routing, TokenInfo

SecondPolicy = Literal["all", "random", "threshold"]


@config
class GShardRouterConfig:
    """Each token goes to its two best experts, to the second with a chance that grows with its weight."""

    type: Literal["gshard"] = "gshard"
    second: SecondPolicy = "random"
    """Who goes to the second expert in training: all; with chance 2 g_2 (the paper); or with chance g_2 / threshold
    (Mesh TensorFlow)."""
    second_eval: SecondPolicy = "all"
    """The same in evaluation, where Mesh TensorFlow also draws."""
    threshold: float = Field(0.2, gt=0)
    """The weight from which on a second expert is certain, under 'threshold'."""
    normalize: Literal["before", "after"] = "before"
    """The two weights sum to 1 before second experts are left out and full ones dropped, so that a token that loses
    one has less in all (the paper); or those that remain sum to 1 (torchscale). Chances are of weights before that."""
    jitter: float = Field(0.0, ge=0, lt=1)
    """Half width of uniform noise that multiplies the input in training; Mesh TensorFlow: 0.01."""
    capacity: CapacityConfig | None = CapacityConfig(factor=2.0, factor_eval=2.0, count_choices=False)
    """How many tokens an expert takes, of each group of tokens; none: dropless. Mesh TensorFlow: groups of 1024,
    factors 1.25 and 2, at least 4, rounded down."""

    balances_itself = False

    @property
    def causal(self) -> bool:
        """False where a capacity lets a later token take an earlier one's place in an expert."""
        return keeps_causality(self.capacity, 2)

    def edges_per_token(self, num_experts: int) -> float:
        """2, at most."""
        return 2

    def losses(self, num_experts: int) -> tuple[Loss, ...]:
        """The switch loss of first choices, 0.01."""
        return (SwitchLoss(form="first"),)

    def build(self, dim: int, num_experts: int) -> GShardRouter:
        """The router over x of width `dim`."""
        return GShardRouter(self, dim, num_experts)


class GShardRouter(Stateless, LinearRouter):
    """p = softmax(x W^T), the two largest g_1, g_2 over their sum; the second is kept if 2 g_2 > u, u ~ U(0, 1).

    A second choice that is not kept takes no expert's place, yet stays a choice.

    Source: GShard (2006.16668), algorithm 1.
    """

    def __init__(self, config: GShardRouterConfig, dim: int, num_experts: int) -> None:
        check_k(2, num_experts)
        super().__init__(dim, num_experts)
        self.config, self.causal = config, config.causal

    def forward(self, x_TD: Tensor, info: TokenInfo | None = None, previous: Routing | None = None) -> Routing:
        """Two edges a token, the better first."""
        epsilon = self.config.jitter
        logits_TE = self.logits(jitter(x_TD, epsilon) if self.training and epsilon else x_TD)
        probs_TE = logits_TE.softmax(-1)
        expert_T2 = best(probs_TE, 2)
        weight_T2 = probs_TE.gather(-1, expert_T2)
        if self.config.normalize == "before":
            weight_T2 = over_sum(weight_T2)
        routing = token_choice(expert_T2, weight_T2, info, logits_TE=logits_TE, probs_TE=probs_TE)
        routing = self._without_some_second(routing)
        routing = limited(self.config.capacity, routing, len(x_TD), self.num_experts, self.training)
        return routing if self.config.normalize == "before" else _live_over_sum(routing)

    def _without_some_second(self, routing: Routing) -> Routing:
        policy = self.config.second if self.training else self.config.second_eval
        if policy == "all":
            return routing
        weight_T = routing.weight_N.detach()[1::2]
        chance_T = 2 * weight_T if policy == "random" else weight_T / self.config.threshold
        second_T = torch.rand_like(weight_T) < chance_T
        kept_N = torch.stack([torch.ones_like(second_T), second_T], dim=1).flatten()
        return keep(routing, kept_N)


def _live_over_sum(routing: Routing) -> Routing:
    """The routing with the weights of each token's live edges over their sum; those of others stay."""
    weight_T2 = routing.weight_N.view(-1, 2)
    live_T2 = torch.ones_like(weight_T2, dtype=torch.bool) if routing.live_N is None else routing.live_N.view(-1, 2)
    shared_T2 = over_sum(torch.where(live_T2, weight_T2, 0))
    return routing._replace(weight_N=torch.where(live_T2, shared_T2, weight_T2).flatten())
