"""Dynamic top-p routing: a sure token goes to few experts, an unsure one to many."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from sparsemix.balance import LocalEntropyLoss, Loss, SwitchLoss
from sparsemix.config import config
from sparsemix.routers.base import Stateless
from sparsemix.routers.linear import LinearRouter
from sparsemix.routers.score import check_not_constant, over_sum, running_sum
from sparsemix.routers.select import ragged_choice
from sparsemix.routing import Routing, TokenInfo


@config
class TopPRouterConfig:
    """Each token goes to its fewest best experts whose probabilities sum to more than p."""

    type: Literal["top_p"] = "top_p"
    p: float = Field(0.4, gt=0, lt=1)
    """How much probability the experts of a token must have together."""
    normalize: bool = False
    """Divide a token's weights by their sum; a token sure of one expert then gives the router no gradient."""
    max_k: int | None = Field(None, ge=1)
    """Never more experts a token; none: all, if need be."""
    mean_k: float = Field(1.76, gt=0)
    """Experts a token after training, for counts of active parameters and FLOPs only: the data decide (the paper's
    model: 1.76)."""

    causal = True
    balances_itself = False

    @model_validator(mode="after")
    def _router_gets_gradient(self) -> TopPRouterConfig:
        seen, remedy = "max_k=1 with normalize=True", "use normalize=False, or max_k >= 2"
        check_not_constant(self.max_k == 1 and self.normalize, "max_k", seen, remedy)
        return self

    def edges_per_token(self, num_experts: int) -> float:
        """`mean_k`, or what there can be at most."""
        return min(self.mean_k, num_experts, self.max_k or num_experts)

    def losses(self, num_experts: int) -> tuple[Loss, ...]:
        """The switch loss, 0.01, and the entropy of each token's distribution, 0.0001, lest it chooses them all."""
        return SwitchLoss(), LocalEntropyLoss()

    def build(self, dim: int, num_experts: int) -> TopPRouter:
        """The router over x of width `dim`."""
        return TopPRouter(self, dim, num_experts)


class TopPRouter(Stateless, LinearRouter):
    """P = softmax(x W^T); experts by falling P, weighted by P, until their sum exceeds p: the one that crosses p is in.

    Edges are ragged, and cost what they are; `torch.compile` breaks the graph there. Source: Huang 2024 (2403.07652).
    """

    def __init__(self, config: TopPRouterConfig, dim: int, num_experts: int) -> None:
        super().__init__(dim, num_experts)
        self.config, self.causal = config, config.causal

    def forward(self, x_TD: Tensor, info: TokenInfo | None = None, previous: Routing | None = None) -> Routing:
        """At least one edge a token."""
        logits_TE = self.logits(x_TD)
        probs_TE = logits_TE.softmax(-1)
        chosen_TE = self._chosen(probs_TE.detach())
        weight_TE = over_sum(probs_TE.masked_fill(~chosen_TE, 0)) if self.config.normalize else probs_TE
        return ragged_choice(chosen_TE, weight_TE, info, logits_TE=logits_TE, probs_TE=probs_TE)

    def _chosen(self, probs_TE: Tensor) -> Tensor:
        """bool, (T, E)."""
        ranked_TE, expert_TE = probs_TE.sort(dim=-1, descending=True, stable=True)
        collected_TE = F.pad(running_sum(ranked_TE)[:, :-1], (1, 0))  # by the better ones
        taken_TE = collected_TE <= self.config.p
        taken_TE[:, self.config.max_k or self.num_experts :] = False
        return taken_TE.scatter(1, expert_TE, taken_TE)
