"""Balance within each sequence."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from sparsemix.balance.batch import field, valid_rows
from sparsemix.config import config
from sparsemix.routing import Routing, needed, valid_edges


def sequence_loss(routing: Routing) -> Tensor:
    """`switch_loss` of each sequence for itself, averaged over the sequences that have valid tokens.

    Args:
        routing: of one layer; `probs_TE` and `info.sequence_T` are required.

    Returns:
        A scalar; 1 where every sequence loads its experts evenly. Only the probabilities carry gradient.

    Raises:
        ValueError: one of these is missing.

    Source: DeepSeek-V3 (2412.19437) equations 17 to 20; its probabilities are the scores over their sum.
    """
    probs_TE = field(routing, "probs_TE", "sequence_loss")
    num_experts = probs_TE.shape[1]
    names_B, sequence_T = torch.unique(needed(routing.info, "sequence_T", "sequence_loss"), return_inverse=True)
    valid_T = valid_rows(routing, torch.ones_like(probs_TE[:, :1]))[:, 0]

    tokens_B = valid_T.new_zeros(len(names_B)).index_add(0, sequence_T, valid_T)
    probs_BE = probs_TE.new_zeros(len(names_B), num_experts).index_add(0, sequence_T, valid_rows(routing, probs_TE))
    count_BE = _choices(routing, sequence_T, len(names_B), num_experts).to(probs_TE.dtype)
    share_BE = count_BE / count_BE.sum(-1, keepdim=True).clamp(min=1)
    loss_B = num_experts * (share_BE * probs_BE).sum(-1) / tokens_B.clamp(min=1)
    return loss_B.sum() / (tokens_B > 0).sum().clamp(min=1)


def _choices(routing: Routing, sequence_T: Tensor, num_sequences: int, num_experts: int) -> Tensor:
    """Valid choices of each expert in each sequence, (B, E)."""
    cell_N = sequence_T[routing.token_N] * num_experts + routing.expert_N
    valid_N = valid_edges(routing)
    one_N = torch.ones_like(cell_N) if valid_N is None else valid_N.long()
    return cell_N.new_zeros(num_sequences * num_experts).index_add_(0, cell_N, one_N).view(num_sequences, num_experts)


@config
class SequenceLoss:
    """The switch loss of each sequence for itself."""

    type: Literal["sequence"] = "sequence"
    weight: float = Field(1e-4, ge=0)
    """Coefficient; DeepSeek-V3: 0.0001, beside a selection bias."""

    def statistic(self, routing: Routing) -> None:
        """Nothing: no sequence is cut up, so that a mean over micro-batches is exact."""

    def __call__(self, routing: Routing, total: Tensor | None = None) -> Tensor:
        """`sequence_loss`."""
        return sequence_loss(routing)
