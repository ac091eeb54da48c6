"""AdaMoE: null experts, which cost nothing, let tokens differ in how many true experts they go to."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from sparsemix.balance import Loss, NullLoss
from sparsemix.checks import check
from sparsemix.config import config
from sparsemix.routers.base import KExperts, Stateless
from sparsemix.routers.linear import LinearRouter
from sparsemix.routers.score import softmax_among
from sparsemix.routers.select import best, check_k, keep, token_choice
from sparsemix.routing import Routing, TokenInfo


@config
class NullRouterConfig(KExperts):
    """Each token goes to the true ones among its k best experts, of which the last few are null."""

    type: Literal["null"] = "null"
    k: int = Field(4, ge=2)
    """Choices a token, null ones too: more than it would have of true experts alone."""
    num_null: int = Field(1, ge=1)
    """How many experts, the last ones, are null: put `ZeroExpertsConfig` there."""
    bias: bool = False
    """Logits have a trained bias."""

    causal = True
    balances_itself = False

    @property
    def last_experts(self) -> tuple[str, ...]:
        """Kinds of the experts that must be placed last."""
        return ("zero",) * self.num_null

    def losses(self, num_experts: int) -> tuple[Loss, ...]:
        """The switch loss to which all null experts are alike, 0.01."""
        return (NullLoss(num_null=self.num_null),)

    def build(self, dim: int, num_experts: int) -> NullRouter:
        """The router over x of width `dim`."""
        return NullRouter(self, dim, num_experts)


class NullRouter(Stateless, LinearRouter):
    """The k best of logits x W^T + b; weights: a softmax over the true experts among them, 0 for null ones.

    Null choices are counted, as balance losses need it, but not live. A token with null choices only gets 0.
    Source: AdaMoE (2406.13233). Differs: the bias, where there is one.
    """

    def __init__(self, config: NullRouterConfig, dim: int, num_experts: int) -> None:
        check_k(config.k, num_experts)
        rule, remedy = f"must leave a true expert among {num_experts}", "lower it or add experts"
        check(config.num_null < num_experts, "num_null", rule, config.num_null, remedy)
        super().__init__(dim, num_experts, bias=config.bias)
        self.config, self.causal = config, config.causal

    def forward(self, x_TD: Tensor, info: TokenInfo | None = None, previous: Routing | None = None) -> Routing:
        """K edges a token, perhaps none of them live."""
        logits_TE = self.logits(x_TD)
        expert_TK = best(logits_TE, self.config.k)
        true_TK = expert_TK < self.num_experts - self.config.num_null
        weight_TK = softmax_among(logits_TE.gather(-1, expert_TK), true_TK)
        routing = token_choice(expert_TK, weight_TK, info, logits_TE=logits_TE, probs_TE=logits_TE.softmax(-1))
        return keep(routing, true_TK.flatten())
