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
    """The sink becomes a first key of value 0: in one more dimension it holds a 1, other keys 0, and queries the logit.

    Queries hold it since heads may share keys. A causal mask wants as many queries as keys: then one more query
    goes first, which sees the sink alone and is dropped.
    """
    size, before = query.shape[-1], int(mask.causal)
    column = (sink_H / scale).to(query.dtype)[:, None, None].expand(*query.shape[:-1], 1)
    query = F.pad(torch.cat([query, column], dim=-1), (0, SINK_WIDTH - 1, before, 0))
    sink_key = F.pad(key.new_ones(1), (size, SINK_WIDTH - 1))
    key = torch.cat([sink_key.expand(*key.shape[:2], 1, -1), F.pad(key, (0, SINK_WIDTH))], dim=2)
    value = F.pad(value, (0, SINK_WIDTH, 1, 0))
    allowed = None if mask.allowed is None else F.pad(mask.allowed, (1, 0), value=True)
    mixed = attend(query, key, value, AttentionMask(allowed, mask.causal), scale)
    return mixed[:, :, before:, :size]


def _one_query(query: Tensor, key: Tensor, value: Tensor, mask: AttentionMask, scale: float, sink_H: Tensor) -> Tensor:
    """Written out: one query has few scores, and no key of the cache is copied."""
    of_key = query.shape[1] // key.shape[1]
    scores = query.reshape(*key.shape[:2], of_key, -1) @ key.mT * scale
    if mask.allowed is not None:
        scores = scores.masked_fill(~mask.allowed, -torch.inf)
    sink = sink_H.view(-1, of_key, 1).expand(*scores.shape[:-1], 1)
    logits = torch.cat([scores, sink], dim=-1)
    weights = logits.to(at_least_float32(logits.dtype)).softmax(dim=-1).to(value.dtype)
    return (weights[..., :-1] @ value).flatten(1, 2)[:, :, None]
