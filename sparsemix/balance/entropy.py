"""Entropy losses: each token sure of its expert, all tokens of a modality together spread over many."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from sparsemix.balance.batch import field, mean_of, num_tokens, seen_from_the_whole, valid_rows, with_count
from sparsemix.config import config
from sparsemix.routing import Routing, needed


def local_entropy_loss(routing: Routing, modality: int | None = None, share: Tensor | None = None) -> Tensor:
    """mean_t H(p_t) over the valid tokens of a modality, nats: 0 for sure choices, ln E for none.

    Args:
        routing: of one layer; `probs_TE` is required, and `info.modality_T` where a modality is asked for.
        modality: which tokens; None: all.
        share: of a larger batch's tokens, those of the modality. The mean of the losses of the parts, weighted by
            all their tokens, is then exactly the loss of the whole.

    Source: LIMoE (2206.02770) equation 1; over all tokens, the entropy loss of dynamic top-p routing (2403.07652).
    """
    probs_TE = field(routing, "probs_TE", "local_entropy_loss")
    of_modality_T = _tokens(routing, modality)
    share = of_modality_T.sum().to(probs_TE.dtype) / num_tokens(routing) if share is None else share
    return _over(torch.where(of_modality_T, _entropy(probs_TE), 0).sum() / num_tokens(routing), share)


def global_entropy_loss(
    routing: Routing, min_experts: float, modality: int | None = None, whole: Tensor | None = None
) -> Tensor:
    """max(0, ln(min_experts) - H(mean_t p_t)) over the valid tokens of a modality, nats.

    0 as soon as the tokens together spread as evenly as over `min_experts` experts would be.

    Args:
        routing: of one layer, as above.
        min_experts: S, the soft minimum of experts that the modality is to use.
        modality: which tokens; None: all. Without such tokens the loss is 0.
        whole: the mean over a larger batch of what each token of the modality adds to `given`, (E + 1,); value and
            gradient are then exact.

    Source: LIMoE (2206.02770) equation 2 and 4.
    """
    mean = seen_from_the_whole(given(routing, modality) / num_tokens(routing), whole)
    given_E, share = mean[:-1], mean[-1].detach()
    return torch.where(share > 0, (math.log(min_experts) - _entropy(_over(given_E, share))).clamp(min=0), 0)


def given(routing: Routing, modality: int | None) -> Tensor:
    """Summed probabilities of the modality's valid tokens, and how many there were, (E + 1,)."""
    probs_TE = field(routing, "probs_TE", "global_entropy_loss")
    probs_and_one = torch.cat([probs_TE, torch.ones_like(probs_TE[:, :1])], dim=-1)
    return torch.where(_tokens(routing, modality)[:, None], probs_and_one, 0).sum(0)


def _tokens(routing: Routing, modality: int | None) -> Tensor:
    """bool (T,): those that count."""
    assert routing.probs_TE is not None
    valid_T = valid_rows(routing, torch.ones_like(routing.probs_TE[:, :1]))[:, 0] > 0
    if modality is None:
        return valid_T
    return valid_T & (needed(routing.info, "modality_T", "a loss of one modality") == modality)


def _over(sum_of_shares: Tensor, share: Tensor) -> Tensor:
    """The quotient, 0 where nothing has a share."""
    return sum_of_shares / torch.where(share > 0, share, 1)


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

    def statistic(self, routing: Routing) -> Tensor | None:
        """How many tokens there were of the modality, and of all; nothing where it is a mean over all."""
        return None if self.modality is None else with_count(given(routing, self.modality)[-1:], routing)

    def __call__(self, routing: Routing, total: Tensor | None = None) -> Tensor:
        """`local_entropy_loss`."""
        whole = mean_of(total)
        return local_entropy_loss(routing, self.modality, None if whole is None else whole[0])


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
        """Summed probabilities of the modality's tokens, and how many there were of it, and of all."""
        return with_count(given(routing, self.modality), routing)

    def __call__(self, routing: Routing, total: Tensor | None = None) -> Tensor:
        """`global_entropy_loss`."""
        return global_entropy_loss(routing, self.min_experts, self.modality, mean_of(total))
