"""The softmax of attention, fused: no scores are stored for backward, also where heads have sinks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsemix.kernels import at_least_float32
from sparsemix.models.masks import AttentionMask

SINK_WIDTH = 8
"""What heads are widened by to hold a sink's logit: 1 would do, but fused kernels want multiples of 8."""


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: AttentionMask, scale: float, sink_H: Tensor | None = None
) -> Tensor:
    """softmax(scale * q k^T) v over the keys that the mask allows.

    Args:
        query: (B, H, queries, A).
        key: (B, a divisor of H, keys, A); each serves as many heads in a row.
        value: as the keys, but for the size of a head.
        mask: which keys a query sees.
        scale: usually 1 / sqrt(A).
        sink_H: a logit a head that takes part in the softmax and has no value: weights then sum to less than 1.

    Returns:
        (B, H, queries, the size of value).
    """
    if sink_H is not None:
        return (_one_query if query.shape[2] == 1 else _with_sink)(query, key, value, mask, scale, sink_H)
    size = value.shape[-1]
    if size != query.shape[-1]:  # fused kernels want one width
        width = max(size, query.shape[-1])
        query, key, value = (F.pad(x, (0, width - x.shape[-1])) for x in (query, key, value))
    mixed = F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask.allowed,
        is_causal=mask.causal,
        scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return mixed[..., :size]


def _with_sink(query: Tensor, key: Tensor, value: Tensor, mask: AttentionMask, scale: float, sink_H: Tensor) -> Tensor:
    """The sink as a first key: no value, and a logit that stands in a dimension of their own of queries and this key.

    It is the query that holds the logit, since heads share keys. A causal mask counts as many queries as keys: then a
    query is put before the others too, that sees the sink alone.
    """
    size, before = query.shape[-1], int(mask.causal)
    column = (sink_H / scale).to(query.dtype)[:, None, None].expand(*query.shape[:-1], 1)
    query = F.pad(torch.cat([query, column], dim=-1), (0, SINK_WIDTH - 1, before, 0))
    sink_key = key.new_zeros(size + SINK_WIDTH).index_fill(0, torch.tensor([size], device=key.device), 1)
    key = torch.cat([sink_key.expand(*key.shape[:2], 1, -1), F.pad(key, (0, SINK_WIDTH))], dim=2)
    value = F.pad(value, (0, SINK_WIDTH, 1, 0))
    allowed = None if mask.allowed is None else F.pad(mask.allowed, (1, 0), value=True)
    mixed = attend(query, key, value, AttentionMask(allowed, mask.causal), scale)
    return mixed[:, :, before:, :size]


def _one_query(query: Tensor, key: Tensor, value: Tensor, mask: AttentionMask, scale: float, sink_H: Tensor) -> Tensor:
    """Written out, since the scores of one query are few, and the keys so far stay where they are."""
    of_key = query.shape[1] // key.shape[1]
    scores = query.reshape(*key.shape[:2], of_key, -1) @ key.mT * scale
    if mask.allowed is not None:
        scores = scores.masked_fill(~mask.allowed, -torch.inf)
    sink = sink_H.view(-1, of_key, 1).expand(*scores.shape[:-1], 1)
    logits = torch.cat([scores, sink], dim=-1)
    weights = logits.to(at_least_float32(logits.dtype)).softmax(dim=-1).to(value.dtype)
    return (weights[..., :-1] @ value).flatten(1, 2)[:, :, None]
