"""LIMoE: the router of V-MoE for tokens of several modalities, kept from splitting experts badly by entropies."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sparsemix.balance import GlobalEntropyLoss, LocalEntropyLoss, Loss
from sparsemix.checks import check
from sparsemix.config import config
from sparsemix.routers.base import KExperts
from sparsemix.routers.capacity import CapacityConfig, Limited
from sparsemix.routers.vmoe import VMoERouter, vmoe_losses


@config
class LIMoERouterConfig(KExperts, Limited):
    """Each token of any modality goes to its one best expert, by V-MoE's gate; entropy losses look at modalities.

    Source: LIMoE (2206.02770).
    """

    type: Literal["limoe"] = "limoe"
    min_experts: Annotated[tuple[Annotated[float, Field(gt=1)], ...], Field(min_length=1)]
    """S of modality 0, of modality 1, ...: its tokens are to spread at least as evenly as over S experts."""
    local: tuple[int, ...] = ()
    """The modalities each of whose tokens is to be sure of its expert (the paper: text)."""
    noise_std: float = Field(1.0, ge=0)
    """E times the standard deviation of the noise on the logits, in training."""
    capacity: CapacityConfig | None = CapacityConfig(factor=1.05, factor_eval=1.05, multiple_of=4, priority="token")
    """How many tokens an expert takes, the surest served first; none: dropless."""

    k = 1
    balances_itself = False

    @model_validator(mode="after")
    def _local_modalities_exist(self) -> LIMoERouterConfig:
        last = len(self.min_experts) - 1
        exist = all(0 <= modality <= last for modality in self.local)
        check(exist, "local", f"modalities must be in 0..{last}", self.local, "give each a min_experts")
        return self

    def losses(self, num_experts: int) -> tuple[Loss, ...]:
        """V-MoE's, 0.005 each, and the entropies of modalities, 0.04 each."""
        return (
            *vmoe_losses(self.noise_std),
            *(LocalEntropyLoss(modality=m, weight=0.04) for m in self.local),
            *(GlobalEntropyLoss(modality=m, min_experts=s, weight=0.04) for m, s in enumerate(self.min_experts)),
        )

    def build(self, dim: int, num_experts: int) -> VMoERouter:
        """V-MoE's router over x of width `dim`."""
        most = max(self.min_experts)
        check(most <= num_experts, "min_experts", f"must be at most the {num_experts} experts", most, "lower it")
        return VMoERouter(self, dim, num_experts)
