"""The dense mixtures of 1991 and 2013: every token goes to every expert."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from sparsemix.balance.batch import combine_weight
from sparsemix.checks import check_dim
from sparsemix.config import config
from sparsemix.routers.base import SelfBalanced, wide_dtype
from sparsemix.routers.linear import LinearRouter
from sparsemix.routers.score import linear_scores, softmax_among
from sparsemix.routers.select import best, keep, token_choice
from sparsemix.routing import Routing, TokenInfo


@config
class DenseRouterConfig(SelfBalanced):
    """Each token goes to all experts, weighted by a softmax."""

    type: Literal["dense"] = "dense"
    hidden: int | None = Field(None, ge=1)
    """Width of a ReLU layer in the gate (2013); none: a linear gate (1991)."""
    margin: float | None = Field(None, gt=0)
    """In training, an expert whose gates have added up to so many tokens more than the mean gets none until others
    have caught up (2013); none: no constraint, as for the paper's second phase. What is saved is the same."""

    causal = True  # the constraint looks at earlier batches only

    def edges_per_token(self, num_experts: int) -> float:
        """E."""
        return num_experts

    def build(self, dim: int, num_experts: int) -> DenseRouter:
        """The router over x of width `dim`."""
        return DenseRouter(self, dim, num_experts)


class DenseRouter(LinearRouter):
    """Weights softmax(x W^T), or softmax(B relu(A x + a) + b), over the experts with G_i - mean G <= margin.

    G_i, the total of expert i, is what its weights add up to over the tokens of all batches before. Edges whose weight
    is 0, also for want of digits, are not live.

    Source: Jacobs, Jordan, Nowlan and Hinton 1991; Eigen, Ranzato and Sutskever 2013 (1312.4314).
    Differs: totals are those before the optimiser step, not before the example; they are of weights after masking,
    which the paper leaves open.
    """

    def __init__(self, config: DenseRouterConfig, dim: int, num_experts: int) -> None:
        hidden, dtype = config.hidden, wide_dtype()
        super().__init__(hidden or dim, num_experts, bias=hidden is not None)
        self.config, self.causal, self.dim = config, config.causal, dim
        self.hidden_FD = nn.Parameter(torch.empty(hidden, dim, dtype=dtype)) if hidden else None
        self.hidden_bias_F = nn.Parameter(torch.zeros(hidden, dtype=dtype)) if hidden else None
        if self.hidden_FD is not None:
            nn.init.normal_(self.hidden_FD, std=dim**-0.5)
        # G less its mean, which stays small: at 2^24 tokens float32 would no longer count single ones.
        self.register_buffer("excess_E", torch.zeros(num_experts, dtype=dtype))
        self.excess_E: Tensor

    def forward(self, x_TD: Tensor, info: TokenInfo | None = None, previous: Routing | None = None) -> Routing:
        """E edges a token, best first; `probs_TE` is the gate without the constraint."""
        check_dim("x", x_TD, -1, self.dim)
        logits_TE = self.logits(self._features(x_TD))
        probs_TE = weight_TE = logits_TE.softmax(-1)
        if self.training and self.config.margin is not None:
            weight_TE = softmax_among(logits_TE, (self.excess_E <= self.config.margin).expand_as(logits_TE))
        expert_TE = best(weight_TE, self.num_experts)
        routing = token_choice(expert_TE, weight_TE.gather(-1, expert_TE), info, logits_TE=logits_TE, probs_TE=probs_TE)
        return keep(routing, routing.weight_N.detach() > 0)

    def _features(self, x_TD: Tensor) -> Tensor:
        """What the last layer of the gate sees."""
        return x_TD if self.hidden_FD is None else linear_scores(x_TD, self.hidden_FD, self.hidden_bias_F).relu()

    def statistic(self, routing: Routing) -> Tensor | None:
        """The summed weights of each expert, where a constraint follows them."""
        return None if self.config.margin is None else combine_weight(routing, self.num_experts).detach()

    @torch.no_grad()
    def update(self, total: Tensor) -> None:
        """Add to the totals what the whole batch gave."""
        excess_E = self.excess_E + total.to(self.excess_E.dtype)
        self.excess_E.copy_(excess_E - excess_E.mean())
