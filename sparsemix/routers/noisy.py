"""Noisy top-k gating, the router that made mixtures sparse."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from sparsemix.balance import ImportanceLoss, LoadLoss, Loss
from sparsemix.config import config
from sparsemix.routers.base import KExperts, Stateless, wide_dtype
from sparsemix.routers.capacity import CapacityConfig, Limited, limited
from sparsemix.routers.linear import LinearRouter
from sparsemix.routers.score import linear_scores
from sparsemix.routers.select import best, check_k, selection_probability, token_choice
from sparsemix.routing import Routing, TokenInfo


@config
class NoisyTopKRouterConfig(KExperts, Limited):
    """Each token goes to the k experts with the best noisy logits, weighted by softmax over these."""

    type: Literal["noisy_topk"] = "noisy_topk"
    k: int = Field(4, ge=2)
    """Experts a token; one whose weight is always 1 would give the router no gradient."""
    noise_floor: float = Field(1e-2, ge=0)
    """Added to the standard deviation of the noise."""
    capacity: CapacityConfig | None = None
    """How many tokens an expert takes; none: dropless."""

    balances_itself = False

    def losses(self, num_experts: int) -> tuple[Loss, ...]:
        """Importance and load, 0.1 each."""
        return ImportanceLoss(), LoadLoss()

    def build(self, dim: int, num_experts: int) -> NoisyTopKRouter:
        """The router over x of width `dim`."""
        return NoisyTopKRouter(self, dim, num_experts)


class NoisyLogits(LinearRouter):
    """H = x W^T + n (softplus(x W_noise^T) + floor), n ~ N(0, 1) in training; without the noise in evaluation."""

    def __init__(self, dim: int, num_experts: int, noise_floor: float) -> None:
        super().__init__(dim, num_experts)
        self.noise_ED = nn.Parameter(torch.zeros(num_experts, dim, dtype=wide_dtype()))  # deviation softplus(0) = ln 2
        self.noise_floor = noise_floor

    def noisy_logits(self, x_TD: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Logits without and with noise, and its standard deviation, None where there is none; (T, E) each."""
        logits_TE = self.logits(x_TD)
        if not self.training:
            return logits_TE, logits_TE, None
        scale_TE = F.softplus(linear_scores(x_TD, self.noise_ED)) + self.noise_floor
        return logits_TE, logits_TE + torch.randn_like(logits_TE) * scale_TE, scale_TE


class NoisyTopKRouter(Stateless, NoisyLogits):
    """Weights = softmax of the k largest of H, the noisy logits.

    Source: Shazeer 2017 (1701.06538), equations 3 to 5 and appendix A. Differs: logits begin small and normal instead
    of 0, since without noise, in evaluation, ties would send all tokens to the same experts.
    """

    def __init__(self, config: NoisyTopKRouterConfig, dim: int, num_experts: int) -> None:
        check_k(config.k, num_experts)
        super().__init__(dim, num_experts, config.noise_floor)
        self.config, self.causal = config, config.causal

    def forward(self, x_TD: Tensor, info: TokenInfo | None = None, previous: Routing | None = None) -> Routing:
        """K edges a token; `load_TE` in training. What losses read, `logits_TE` and `probs_TE`, is without noise."""
        k = self.config.k
        logits_TE, noisy_TE, scale_TE = self.noisy_logits(x_TD)
        load_TE = None if scale_TE is None else selection_probability(logits_TE, noisy_TE, scale_TE, k)
        expert_TK = best(noisy_TE, k)
        weight_TK = noisy_TE.gather(-1, expert_TK).softmax(-1)
        probs_TE = logits_TE.softmax(-1)
        routing = token_choice(expert_TK, weight_TK, info, logits_TE=logits_TE, probs_TE=probs_TE, load_TE=load_TE)
        return limited(self.config.capacity, routing, len(x_TD), self.num_experts, self.training)
