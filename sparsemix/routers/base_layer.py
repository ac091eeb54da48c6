"""BASE: in training, all tokens are assigned at once so that every expert gets equally many."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from sparsemix.config import config
from sparsemix.routers.assignment import balanced_assignment
from sparsemix.routers.base import SelfBalanced, Stateless
from sparsemix.routers.groups import whole_batch
from sparsemix.routers.linear import LinearRouter
from sparsemix.routers.score import gate_distribution
from sparsemix.routers.select import best, token_choice
from sparsemix.routing import Routing, TokenInfo


@config
class BASERouterConfig(SelfBalanced):
    """Each token goes to one expert: in training the best that leaves all loads equal, in evaluation its best."""

    type: Literal["base"] = "base"

    causal = False  # in training, later tokens compete for the same places

    def edges_per_token(self, num_experts: int) -> float:
        """1."""
        return 1

    def build(self, dim: int, num_experts: int) -> BASERouter:
        """The router over x of width `dim`."""
        return BASERouter(self, dim, num_experts)


class BASERouter(Stateless, LinearRouter):
    """s = x W^T; in training the assignment with equal loads that maximises the sum of s; weight sigmoid(s).

    Rows of W are the experts' centroids; they learn through the weight alone. Where E does not divide T, loads differ
    by 1. `torch.compile` breaks the graph at the assignment.

    Source: BASE layers (2103.16716) and its released code: orthogonal centroids of gain 0.1. Differs: the
    assignment is found by shortest paths (`balanced_assignment`) instead of an auction.
    """

    starts_by_itself = True  # a decoder's normal initialisation would not be orthogonal

    def __init__(self, config: BASERouterConfig, dim: int, num_experts: int) -> None:
        super().__init__(dim, num_experts)
        self.config, self.causal = config, config.causal

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Centroids orthogonal to each other, as far as the width allows."""
        nn.init.orthogonal_(self.weight_ED, gain=0.1)

    def forward(self, x_TD: Tensor, info: TokenInfo | None = None, previous: Routing | None = None) -> Routing:
        """One edge a token."""
        logits_TE = self.logits(x_TD)
        expert_T1 = best(logits_TE, 1)
        if self.training:
            token_S = whole_batch(x_TD, info)[0]
            expert_T1[token_S] = balanced_assignment(logits_TE[token_S])[:, None]
        weight_T1 = torch.sigmoid(logits_TE.gather(-1, expert_T1))
        probs_TE = gate_distribution("sigmoid", logits_TE)
        return token_choice(expert_T1, weight_T1, info, logits_TE=logits_TE, probs_TE=probs_TE)
