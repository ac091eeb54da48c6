"""What the blocks of a decoder are told of their tokens beside x: angles, mask, and what routers may need to know."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sparsemix.models.attention import AttentionMask, attention_mask
from sparsemix.models.cache import KVCache
from sparsemix.models.rotary import Rotary
from sparsemix.routing import TokenInfo


class Tokens(NamedTuple):
    """B x S tokens, the same for every block of a forward pass."""

    rotary: Rotary
    """The angles of their positions."""
    mask: AttentionMask
    """Which keys they see."""
    info: TokenInfo
    """For routers."""


def place(
    tokens_BS: Tensor,
    position_BS: Tensor | None,
    document_BS: Tensor | None,
    valid_BS: Tensor | None,
    cache: KVCache | None,
) -> tuple[Tensor, AttentionMask]:
    """Positions, (B or 1, S), and what the tokens see. Takes note of them in the cache."""
    num_new, device = tokens_BS.shape[1], tokens_BS.device
    num_keys, key_valid, before_B = num_new, valid_BS, None
    if cache is not None:
        before_B = cache.extend(num_new, valid_BS)
        num_keys, key_valid = cache.length, cache.key_valid_BS
    mask = attention_mask(num_new, num_keys, device, document_BS, key_valid)
    if position_BS is not None:
        return position_BS, mask
    position = torch.arange(num_new, device=device)[None]
    if valid_BS is not None:
        position = (valid_BS.cumsum(dim=1) - 1).clamp(min=0)
    return position if before_B is None else position + before_B[:, None], mask


def token_info(tokens_BS: Tensor, position: Tensor, valid_BS: Tensor | None) -> TokenInfo:
    """What routers may need to know; `position` is (B or 1, S)."""
    sequence_B1 = torch.arange(len(tokens_BS), device=tokens_BS.device)[:, None]
    return TokenInfo(
        valid_T=None if valid_BS is None else valid_BS.flatten(),
        id_T=tokens_BS.flatten(),
        sequence_T=sequence_B1.expand_as(tokens_BS).flatten(),
        position_T=position.expand_as(tokens_BS).flatten(),
    )
