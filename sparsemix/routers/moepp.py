"""MoE++: top-k over FFN experts and others that cost next to nothing, with a residual between routers."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from sparsemix.balance import CostLoss, Loss
from sparsemix.checks import check, check_dim
from sparsemix.config import config
from sparsemix.routers.base import KExperts, Stateless, wide_dtype
from sparsemix.routers.capacity import CapacityConfig, Limited, limited
from sparsemix.routers.linear import LinearRouter
from sparsemix.routers.score import check_not_constant, linear_scores, softmax_among
from sparsemix.routers.select import best, check_k, keep, token_choice
from sparsemix.routing import Routing, TokenInfo


@config
class MoEPPRouterConfig(KExperts, Limited):
    """Each token goes to its k best experts: FFNs first, then those that return 0, x, or x and a constant mixed."""

    type: Literal["moepp"] = "moepp"
    k: int = Field(2, ge=1)
    """Experts a token."""
    num_zero: int = Field(1, ge=0)
    """Zero experts: put `ZeroExpertsConfig` there."""
    num_copy: int = Field(1, ge=0)
    """Copy experts, after these."""
    num_constant: int = Field(2, ge=0)
    """Constant experts, the last. All others, the first, are FFNs."""
    tau: float = Field(0.75, gt=0, le=1)
    """What share of the tokens of a cheap expert an FFN is to have: the smaller, the cheaper the layer."""
    normalize: bool = False
    """Divide a token's weights by their sum without zero experts, whose weight is then 0, as the released code; else
    they are the probabilities, as in the paper."""
    capacity: CapacityConfig | None = None
    """How many tokens an expert takes, an FFN tau times what a cheap one does; none: dropless. The paper's formula
    leaves k out: `count_choices=False`."""

    balances_itself = False

    @model_validator(mode="after")
    def _router_gets_gradient(self) -> MoEPPRouterConfig:
        seen, remedy = "k=1 with normalize=True", "use normalize=False, or k >= 2"
        check_not_constant(self.k == 1 and self.normalize, "k", seen, remedy)
        return self

    @property
    def num_cheap(self) -> int:
        """Experts that are no FFNs."""
        return self.num_zero + self.num_copy + self.num_constant

    @property
    def last_experts(self) -> tuple[str, ...]:
        """Kinds of the experts that must be placed last."""
        return ("zero",) * self.num_zero + ("copy",) * self.num_copy + ("constant",) * self.num_constant

    def costs(self, num_experts: int) -> tuple[float, ...]:
        """eta: 1 for each FFN, tau for each other."""
        return (1.0,) * (num_experts - self.num_cheap) + (self.tau,) * self.num_cheap

    def sizes(self, num_experts: int) -> tuple[float, ...]:
        """Of capacities, relative to each other: tau for each FFN, 1 for each other."""
        return (self.tau,) * (num_experts - self.num_cheap) + (1.0,) * self.num_cheap

    def losses(self, num_experts: int) -> tuple[Loss, ...]:
        """Share of choices times mean probability, in which cheap experts weigh tau; 0.01."""
        return (CostLoss(costs=self.costs(num_experts)),)

    def build(self, dim: int, num_experts: int) -> MoEPPRouter:
        """The router over x of width `dim`."""
        return MoEPPRouter(self, dim, num_experts)


class MoEPPRouter(Stateless, LinearRouter):
    """z_j = x W^T + z_{j-1} W_g^T, with z_{j-1} the logits of the mixture below; the k best, weighted by softmax(z_j).

    Edges of zero experts are choices but not live. Source: MoE++ (2410.07348) and its released code, of which the
    factor k on the experts' input is left out.
    """

    reads_previous = True

    def __init__(self, config: MoEPPRouterConfig, dim: int, num_experts: int) -> None:
        check_k(config.k, num_experts)
        rule, remedy = f"must leave an FFN among {num_experts}", "lower one of them or add experts"
        check(config.num_cheap < num_experts, "num_zero + num_copy + num_constant", rule, config.num_cheap, remedy)
        super().__init__(dim, num_experts)
        self.config, self.causal = config, config.causal
        self.residual_EE = nn.Parameter(torch.empty(num_experts, num_experts, dtype=wide_dtype()))
        nn.init.normal_(self.residual_EE, std=0.02)

    def forward(self, x_TD: Tensor, info: TokenInfo | None = None, previous: Routing | None = None) -> Routing:
        """K edges a token; gradient flows into the logits of `previous`, too."""
        logits_TE = self.logits(x_TD) + self._residual(previous, len(x_TD))
        probs_TE = logits_TE.softmax(-1)
        expert_TK = best(logits_TE, self.config.k)
        first_zero = self.num_experts - self.config.num_cheap
        nonzero_TK = (expert_TK < first_zero) | (expert_TK >= first_zero + self.config.num_zero)
        if self.config.normalize:
            weight_TK = softmax_among(logits_TE.gather(-1, expert_TK), nonzero_TK)
        else:
            weight_TK = probs_TE.gather(-1, expert_TK)
        routing = token_choice(expert_TK, weight_TK, info, logits_TE=logits_TE, probs_TE=probs_TE)
        routing = keep(routing, nonzero_TK.flatten())
        sizes = self.config.sizes(self.num_experts)
        return limited(self.config.capacity, routing, len(x_TD), self.num_experts, self.training, sizes)

    def _residual(self, previous: Routing | None, num_tokens: int) -> Tensor:
        """z_{j-1} W_g^T; in the lowest mixture 0, yet with W_g in the graph."""
        if previous is None:
            return self.residual_EE.flatten()[:0].sum()
        rule, remedy = "must have logits for this router to add to", "put routers of one kind in all layers"
        check(previous.logits_TE is not None, "previous", rule, "logits_TE=None", remedy)
        assert previous.logits_TE is not None
        check_dim("previous.logits_TE", previous.logits_TE, 0, num_tokens)
        check_dim("previous.logits_TE", previous.logits_TE, 1, self.num_experts)
        return linear_scores(previous.logits_TE, self.residual_EE)
