"""Switch routing: one expert a token, weighted by its probability."""

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
from sparsemix.routers.score import jitter
from sparsemix.routers.select import best, token_choice
from sparsemix.routing import Routing, TokenInfo


@config
class SwitchRouterConfig:
    """Each token goes to its one best expert."""

    type: Literal["switch"] = "switch"
    capacity: CapacityConfig | None = CapacityConfig(factor=1.25, factor_eval=2.0)
    """How many tokens an expert takes; none: dropless."""
    jitter: float = Field(0.01, ge=0, lt=1)
    """Half width of the uniform noise in training; 0: none."""
    jitter_on: Literal["input", "logits"] = "input"
    """Multiply the router's input by 1 +- jitter, as the released code, or add that to the logits, as the paper's
    pseudo-code."""

    balances_itself = False

    @property
    def causal(self) -> bool:
        """False where a capacity by probability lets a later token take an earlier one's place."""
        return keeps_causality(self.capacity, 1)

    def edges_per_token(self, num_experts: int) -> float:
        """1."""
        return 1

    def losses(self, num_experts: int) -> tuple[Loss, ...]:
        """The switch loss, 0.01."""
        return (SwitchLoss(),)

    def build(self, dim: int, num_experts: int) -> SwitchRouter:
        """The router over x of width `dim`."""
        return SwitchRouter(self, dim, num_experts)


class SwitchRouter(Stateless, LinearRouter):
    """p = softmax(x W^T); the expert with the largest p, weighted by p, which is what gives the router gradient.

    Source: Switch (2101.03961), equations 1 to 3 and appendix F. Differs: W begins as in all routers rather than by a
    truncated normal distribution of variance 0.1 / D.
    """

    def __init__(self, config: SwitchRouterConfig, dim: int, num_experts: int) -> None:
        super().__init__(dim, num_experts)
        self.config, self.causal = config, config.causal

    def forward(self, x_TD: Tensor, info: TokenInfo | None = None, previous: Routing | None = None) -> Routing:
        """One edge a token."""
        logits_TE = self._jittered(x_TD) if self.training and self.config.jitter else self.logits(x_TD)
        probs_TE = logits_TE.softmax(-1)
        expert_T1 = best(probs_TE, 1)
        weight_T1 = probs_TE.gather(-1, expert_T1)
        routing = token_choice(expert_T1, weight_T1, info, logits_TE=logits_TE, probs_TE=probs_TE)
        return limited(self.config.capacity, routing, len(x_TD), self.num_experts, self.training)

    def _jittered(self, x_TD: Tensor) -> Tensor:
        epsilon = self.config.jitter
        if self.config.jitter_on == "input":
            return self.logits(jitter(x_TD, epsilon))
        logits_TE = self.logits(x_TD)
        return logits_TE + torch.empty_like(logits_TE).uniform_(1 - epsilon, 1 + epsilon)
