"""Which keys a query may look at: those before it, of its document, in its window, and no padding."""

from __future__ import annotations

from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from sparsemix.config import config


@config
class WindowConfig:
    """Sliding windows: a token sees so many tokens only, itself and those just before it.

    Source: Beltagy et al., 2020 (arXiv 2004.05150), section 3.1, looking back only; some layers only: gpt-oss.
    """

    size: int = Field(ge=1)
    """How many tokens it sees, itself included."""
    layers: tuple[int, ...] | None = None
    """The blocks that have a window, counted from 0; None: all."""


class AttentionMask(NamedTuple):
    """Which keys a query sees."""

    allowed: Tensor | None
    """bool, (B or 1, 1, queries, keys); None: no restriction but `causal`."""
    causal: bool
    """Each query sees the keys up to its own place, and there are as many keys as queries."""


def attention_mask(
    num_queries: int,
    num_keys: int,
    device: torch.device,
    document_BS: Tensor | None = None,
    valid_BS: Tensor | None = None,
    window: int | None = None,
) -> AttentionMask:
    """The last `num_queries` of `num_keys` tokens look back, within their document, at what is not padding.

    Args:
        document_BS: int64 ids of the documents; only where num_queries equals num_keys.
        valid_BS: bool, (B, num_keys), False for padding. A padding token sees itself, since a softmax over
            nothing would be NaN; nobody looks at it.
        window: how many places they see, their own included; None: all.
    """
    if document_BS is None and valid_BS is None and window is None:
        if num_queries == 1:
            return AttentionMask(None, causal=False)
        if num_queries == num_keys:  # constants, since the kernel takes no comparison of symbolic sizes under compile
            return AttentionMask(None, causal=True)
    key = torch.arange(num_keys, device=device)
    query = key[num_keys - num_queries :, None]
    allowed = (key <= query)[None]
    if window is not None:
        allowed = allowed & (key > query - window)
    if document_BS is not None:
        allowed = allowed & (document_BS[:, :, None] == document_BS[:, None, :])
    if valid_BS is not None:
        allowed = allowed & valid_BS[:, None, :] | (key == query)
    return AttentionMask(allowed[:, None], causal=False)
