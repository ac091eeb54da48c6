"""X-MoE's router: cosines in a space of few dimensions, so that no expert wins by the length of its row."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from sparsemix.balance import Loss, SwitchLoss
from sparsemix.checks import check, check_dim
from sparsemix.config import config
from sparsemix.routers.base import KExperts, Stateless, WideModule, wide_dtype
from sparsemix.routers.capacity import CapacityConfig, Limited, limited
from sparsemix.routers.score import Gate, check_gradient, linear_scores
from sparsemix.routers.select import check_k, gated_choice
from sparsemix.routing import Routing, TokenInfo


@config
class CosineRouterConfig(KExperts, Limited):
    """Each token goes to the k experts whose embeddings its projection is closest to in angle."""

    type: Literal["cosine"] = "cosine"
    k: int = Field(1, ge=1)
    """Experts a token."""
    gate: Gate = "softmax_topk"
    """Softmax over all experts and then the top k; softmax over the chosen k only; or a sigmoid each."""
    normalize: bool = False
    """Divide the k weights by their sum (topk_softmax sums to 1 as it is)."""
    projection: int | None = Field(None, ge=1)
    """Dimensions of the space; none: half as many as experts. The released code: 16."""
    temperature: float = Field(0.07, gt=0)
    """tau at first; it is learned."""
    temperature_floor: float = Field(0.01, ge=0)
    """tau never gets this low."""
    normalize_input: bool = True
    """Cosines, as in the paper; False, as the released code: the length of the projected token stays in."""
    capacity: CapacityConfig | None = None
    """How many tokens an expert takes; none: dropless."""

    balances_itself = False

    @model_validator(mode="after")
    def _router_gets_gradient(self) -> CosineRouterConfig:
        check_gradient(self.k, self.gate, self.normalize)
        return self

    @model_validator(mode="after")
    def _begins_above_the_floor(self) -> CosineRouterConfig:
        above = self.temperature > self.temperature_floor
        seen, remedy = f"{self.temperature} with temperature_floor={self.temperature_floor}", "raise it"
        check(above, "temperature", "must be above its floor", seen, remedy)
        return self

    def losses(self, num_experts: int) -> tuple[Loss, ...]:
        """The switch loss, 0.01."""
        return (SwitchLoss(),)

    def build(self, dim: int, num_experts: int) -> CosineRouter:
        """The router over x of width `dim`."""
        return CosineRouter(self, dim, num_experts)


class CosineRouter(Stateless, WideModule):
    """logits_e = cos(x P^T, m_e) / tau, gate, choose k, weight.

    Source: X-MoE (2204.09179). Differs: tau = floor + (tau_0 - floor) g^2 with a gain g learned from 1, and
    is not clamped at the floor, where it would get no gradient any more.
    """

    def __init__(self, config: CosineRouterConfig, dim: int, num_experts: int) -> None:
        check_k(config.k, num_experts)
        super().__init__()
        self.config, self.causal, self.num_experts = config, config.causal, num_experts
        size, dtype = config.projection or max(1, num_experts // 2), wide_dtype()
        self.project_AD = nn.Parameter(torch.empty(size, dim, dtype=dtype))
        self.expert_EA = nn.Parameter(torch.empty(num_experts, size, dtype=dtype))
        self.gain_1 = nn.Parameter(torch.ones(1, dtype=dtype))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Directions without preference."""
        nn.init.normal_(self.project_AD, std=self.project_AD.shape[1] ** -0.5)
        nn.init.normal_(self.expert_EA)
        nn.init.ones_(self.gain_1)

    @property
    def temperature(self) -> Tensor:
        """tau, (1,)."""
        floor = self.config.temperature_floor
        return floor + (self.config.temperature - floor) * self.gain_1.square()

    def forward(self, x_TD: Tensor, info: TokenInfo | None = None, previous: Routing | None = None) -> Routing:
        """K edges a token, in token order."""
        k, gate, normalize = self.config.k, self.config.gate, self.config.normalize
        routing = gated_choice(self.logits(x_TD), k, gate, normalize, info)
        return limited(self.config.capacity, routing, len(x_TD), self.num_experts, self.training)

    def logits(self, x_TD: Tensor) -> Tensor:
        """(T, E), in at least float32."""
        check_dim("x", x_TD, -1, self.project_AD.shape[1])
        x_TA = linear_scores(x_TD, self.project_AD)
        if self.config.normalize_input:
            x_TA = _unit(x_TA)
        return linear_scores(x_TA, _unit(self.expert_EA)) / self.temperature


def _unit(x: Tensor) -> Tensor:
    """Rows of length 1; those all but 0 stay short, lest their gradient explode."""
    return F.normalize(x, dim=-1, eps=1e-6)
