"""What transformers says of its tokens, in the terms of our decoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from sparsemix.checks import check


def valid_tokens(attention_mask: Tensor | None, tokens_BS: Tensor, past: int) -> Tensor | None:
    """bool, (B, past + S), False for padding; None where there is none.

    Raises:
        ValueError: a mask of another shape, one of queries and keys for example.
    """
    if attention_mask is None:
        return None
    shape, remedy = (len(tokens_BS), past + tokens_BS.shape[1]), "pass 1 for a token and 0 for padding"
    seen = tuple(attention_mask.shape)
    check(seen == shape, "attention_mask", f"must be of shape {shape}, the tokens in the cache first", seen, remedy)
    valid = attention_mask.bool()
    return None if bool(valid.all()) else valid


def documents(position_BS: Tensor) -> Tensor | None:
    """Which document each token is of, int64: another begins where positions do not go on by 1; None: all are one."""
    begins_BS = torch.zeros_like(position_BS, dtype=torch.bool)
    begins_BS[:, 1:] = position_BS.diff(dim=1) != 1
    return begins_BS.cumsum(dim=1) if bool(begins_BS.any()) else None


def check_grows(cache: Cache) -> None:
    """Raise `ValueError` for a cache that hands out places that no token has filled yet."""
    seen, remedy = type(cache).__name__, "use a DynamicCache"
    check(not cache.is_compileable, "past_key_values", "must be a cache that grows with the tokens", seen, remedy)


def check_taken(input_ids: Tensor | None, others: Mapping[str, Any]) -> None:
    """Raise `ValueError` unless there are token ids, and arguments of other models are at most None or False."""
    for name, value in others.items():
        taken = value is None or value is False
        check(taken, name, "is no argument of this model", f"a {type(value).__name__}", "leave it out")
    check(input_ids is not None, "input_ids", "must be given", "none", "pass token ids")
