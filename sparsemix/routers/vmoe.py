"""V-MoE's router for images: noise before the softmax, and weights that are not normalised."""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor

from sparsemix.balance import ImportanceLoss, LoadLoss, Loss
from sparsemix.config import config
from sparsemix.routers.base import KExperts, Stateless
from sparsemix.routers.capacity import CapacityConfig, Limited, limited
from sparsemix.routers.linear import LinearRouter
from sparsemix.routers.select import best, check_k, token_choice
from sparsemix.routing import Routing, TokenInfo


@config
class VMoERouterConfig(KExperts, Limited):
    """Each token goes to the k experts with the largest softmax of noisy logits, weighted by it as it is."""

    type: Literal["vmoe"] = "vmoe"
    k: int = Field(2, ge=1)
    """Experts a token."""
    noise_std: float = Field(1.0, ge=0)
    """E times the standard deviation of the noise on the logits, in training."""
    capacity: CapacityConfig | None = CapacityConfig(factor=1.05, factor_eval=1.05, multiple_of=4)
    """How many tokens an expert takes; none: dropless. priority='token' is batch prioritised routing."""

    balances_itself = False

    def losses(self, num_experts: int) -> tuple[Loss, ...]:
        """`vmoe_losses`."""
        return vmoe_losses(self.noise_std)

    def build(self, dim: int, num_experts: int) -> VMoERouter:
        """The router over x of width `dim`."""
        return VMoERouter(self, dim, num_experts)


def vmoe_losses(noise_std: float) -> tuple[Loss, ...]:
    """Importance and, since without noise there is no chance of selection, with noise load, 0.005 each."""
    importance = ImportanceLoss(weight=0.005, form="probs")
    return (importance, LoadLoss(weight=0.005)) if noise_std else (importance,)


class GateConfig(Protocol):
    """What V-MoE's gate is told; its own config is one, LIMoE's another."""

    @property
    def k(self) -> int: ...
    @property
    def noise_std(self) -> float: ...
    @property
    def capacity(self) -> CapacityConfig | None: ...
    @property
    def causal(self) -> bool: ...


class VMoERouter(Stateless, LinearRouter):
    """p = softmax(x W^T + n), n ~ N(0, (noise_std / E)^2) in training; the k largest p are the weights.

    Source: V-MoE (2106.05974) and its released code.
    """

    def __init__(self, config: GateConfig, dim: int, num_experts: int) -> None:
        check_k(config.k, num_experts)
        super().__init__(dim, num_experts)
        self.config, self.causal = config, config.causal

    def forward(self, x_TD: Tensor, info: TokenInfo | None = None, previous: Routing | None = None) -> Routing:
        """K edges a token; `load_TE` under noise. What losses read, `logits_TE` and `probs_TE`, is without noise."""
        logits_TE = self.logits(x_TD)
        noisy = self.training and self.config.noise_std > 0
        noisy_TE, load_TE = self._with_noise(logits_TE) if noisy else (logits_TE, None)
        expert_TK = best(noisy_TE, self.config.k)
        weight_TK = noisy_TE.softmax(-1).gather(-1, expert_TK)
        probs_TE = logits_TE.softmax(-1)
        routing = token_choice(expert_TK, weight_TK, info, logits_TE=logits_TE, probs_TE=probs_TE, load_TE=load_TE)
        return limited(self.config.capacity, routing, len(x_TD), self.num_experts, self.training)

    def _with_noise(self, logits_TE: Tensor) -> tuple[Tensor, Tensor]:
        """Noisy logits, and each expert's chance to reach the k-th largest of them."""
        std = self.config.noise_std / self.num_experts
        noisy_TE = logits_TE + std * torch.randn_like(logits_TE)
        return noisy_TE, reaching_probability(logits_TE, noisy_TE, std, self.config.k)


def reaching_probability(clean_TE: Tensor, noisy_TE: Tensor, std: float, k: int) -> Tensor:
    """P(t, i) = Phi((clean_i - kth largest of all noisy logits) / std), which gradient flows through twice.

    Source: V-MoE (2106.05974) and its released code, where i itself may be the k-th: `selection_probability`, of 2017,
    leaves it out.
    """
    threshold_T1 = noisy_TE.topk(k, dim=-1).values[:, k - 1 :]
    return torch.special.ndtr((clean_TE - threshold_T1) / std)
