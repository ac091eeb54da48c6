"""Sinkhorn routing (S-BASE): in training, each token's best experts once all experts are wanted alike."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from sparsemix.config import config
from sparsemix.routers.assignment import evened
from sparsemix.routers.base import KExperts, SelfBalanced, Stateless, valid_tokens
from sparsemix.routers.linear import LinearRouter
from sparsemix.routers.score import gate_distribution, gate_scores
from sparsemix.routers.select import best, check_k, token_choice
from sparsemix.routing import Routing, TokenInfo


@config
class SinkhornRouterConfig(KExperts, SelfBalanced):
    """Each token goes to k experts: in training by a plan that loads all nearly alike, in evaluation to its best."""

    type: Literal["sinkhorn"] = "sinkhorn"
    k: int = Field(1, ge=1)
    """Experts a token."""
    tolerance: float = Field(1e-4, gt=0)
    """The plan is settled when its experts' factors change by less than this share, on average."""
    max_rounds: int = Field(100, ge=1)
    """It is taken as it is after so many rounds; logits far apart settle slowly."""

    causal = False  # in training, the plan depends on later tokens

    def build(self, dim: int, num_experts: int) -> SinkhornRouter:
        """The router over x of width `dim`."""
        return SinkhornRouter(self, dim, num_experts)


class SinkhornRouter(Stateless, LinearRouter):
    """z = x W^T; experts by the top k of d0 exp(z) d1, whose rows sum to 1 / T and columns to 1 / E.

    In evaluation by the top k of z. Weighted by sigmoid(z) for k = 1 and by softmax(z) for more, not normalised. The
    plan carries no gradient; d0 is the same for all experts of a token, so that log d1, added to z, is all it takes.
    `torch.compile` breaks the graph at each round of it.

    Source: S-BASE of 2202.01169, as Megatron-LM has it. Differs: in logarithms, without Megatron's 1e-8 in
    denominators, so that no logit is too large; settled when log d1 rather than d1 is; with a bound on rounds.
    """

    def __init__(self, config: SinkhornRouterConfig, dim: int, num_experts: int) -> None:
        check_k(config.k, num_experts)
        super().__init__(dim, num_experts)
        self.config, self.causal = config, config.causal

    def forward(self, x_TD: Tensor, info: TokenInfo | None = None, previous: Routing | None = None) -> Routing:
        """K edges a token."""
        gate = "sigmoid" if self.config.k == 1 else "softmax_topk"
        logits_TE = self.logits(x_TD)
        wanted_TE = logits_TE
        if self.training:
            valid_T = valid_tokens(info, len(x_TD))
            counted = logits_TE if valid_T is None else logits_TE[valid_T]
            wanted_TE = logits_TE + log_factor(counted, self.config.tolerance, self.config.max_rounds)
        expert_TK = best(wanted_TE, self.config.k)
        weight_TK = gate_scores(gate, logits_TE).gather(-1, expert_TK)
        probs_TE = gate_distribution(gate, logits_TE)
        return token_choice(expert_TK, weight_TK, info, logits_TE=logits_TE, probs_TE=probs_TE)


@torch.no_grad()
def log_factor(logits_TE: Tensor, tolerance: float, max_rounds: int) -> Tensor:
    """log d1 for which d0 exp(z) d1 has rows that sum to 1 / T and columns that sum to nearly 1 / E; (E,)."""
    factor_E = logits_TE.new_zeros(logits_TE.shape[1])
    for _ in range(max_rounds if len(logits_TE) else 0):
        before_E, factor_E = factor_E, evened(logits_TE, factor_E)
        if (factor_E - before_E).abs().mean() < tolerance:
            break
    return factor_E
