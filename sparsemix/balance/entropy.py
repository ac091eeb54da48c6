"""Entropy losses: each token sure of its expert, all tokens of a modality together spread over many."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from sparsemix.balance.batch import field, mean_of, seen_from_the_whole, valid_rows, with_count
from sparsemix.config import config
from sparsemix.routing import Routing, needed


def local_entropy_loss(routing: Routing, modality: int | None = None) -> Tensor:
    """mean_t H(p_t) over the valid tokens of a modality, nats: 0 for sure choices, ln E for none.

    Args:
        routing: of one layer; `probs_TE` is required, and `info.modality_T` where a modality is asked for.
        modality: which tokens; None: all.

    Source: LIMoE (2206.02770) equation 1; over all tokens, the entropy loss of dynamic top-p routing (2403.07652).
    """
    probs_TE = field(routing, "probs_TE", "local_entropy_loss")
    of_modality_T = _tokens(routing, modality)
    return (of_modality_T * _entropy(probs_TE)).sum() / of_modality_T.sum().clamp(min=1)


def global_entropy_loss(
    routing: Routing, min_experts: float, modality: int | None = None, probs_E: Tensor | None = None
) -> Tensor:
    """max(0, ln(min_experts) - H(mean_t p_t)) over the valid tokens of a modality, nats.

    0 as soon as the tokens together spread as evenly as over `min_experts` experts would be.

    Args:
        routing: of one layer, as above.
        min_experts: S, the soft minimum of experts that the modality is to use.
        modality: which tokens; None: all. Without such tokens the loss is 0.
        probs_E: their mean probabilities over a larger batch.

    Source: LIMoE (2206.02770) equation 2 and 4.
    """
    probs_TE = field(routing, "probs_TE", "global_entropy_loss")
    of_modality_T = _tokens(routing, modality)
    mean_E = (of_modality_T[:, None] * probs_TE).sum(0) / of_modality_T.sum().clamp(min=1)
    entropy = _entropy(seen_from_the_whole(mean_E, probs_E))
    return torch.where(of_modality_T.any(), (math.log(min_experts) - entropy).clamp(min=0), 0)


def _tokens(routing: Routing, modality: int | None) -> Tensor:
    """1 for the tokens that count, (T,)."""
    assert routing.probs_TE is not None
    one_T = valid_rows(routing, torch.ones_like(routing.probs_TE[:, :1]))[:, 0]
    if modality is None:
        return one_T
    return one_T * (needed(routing.info, "modality_T", "a loss of one modality") == modality)


def _entropy(probs: Tensor) -> Tensor:
    """-sum p ln p over the last axis; its gradient is finite where p is 0, as ln of a tiny number is."""
    return -(probs * probs.clamp(min=torch.finfo(probs.dtype).tiny).log()).sum(-1)


@config
class LocalEntropyLoss:
    """Mean entropy of a token's gate distribution."""

    type: Literal["local_entropy"] = "local_entropy"
    modality: int | None = None
    """Of these tokens only (LIMoE: text)."""
    weight: float = Field(1e-4, ge=0)
    """Coefficient; dynamic top-p: 0.0001, LIMoE: 0.04."""

    def statistic(self, routing: Routing) -> None:
        """Nothing: it is a mean over tokens."""

    def __call__(self, routing: Routing, total: Tensor | None = None) -> Tensor:
        """`local_entropy_loss`."""
        return local_entropy_loss(routing, self.modality)


@config
class GlobalEntropyLoss:
    """How far the tokens of a modality fall short of spreading over enough experts."""

    type: Literal["global_entropy"] = "global_entropy"
    min_experts: float = Field(gt=1)
    """S: spread over so many experts is enough."""
    modality: int | None = None
    """Of these tokens only."""
    weight: float = Field(0.04, ge=0)
    """Coefficient; LIMoE: 0.04."""

    def statistic(self, routing: Routing) -> Tensor:
        """Summed probabilities of the modality's tokens, and how many there were."""
        probs_TE = field(routing, "probs_TE", "global_entropy_loss")
        of_modality_T = _tokens(routing, self.modality)
        sum_E = (of_modality_T[:, None] * probs_TE).sum(0)
        return with_count(sum_E, of_modality_T.sum())

    def __call__(self, routing: Routing, total: Tensor | None = None) -> Tensor:
        """`global_entropy_loss`."""
        return global_entropy_loss(routing, self.min_experts, self.modality, mean_of(total))
