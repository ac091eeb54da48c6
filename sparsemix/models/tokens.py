"""What the blocks of a decoder are told of their tokens beside x: angles, mask, and what routers may need to know."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sparsemix.models.cache import KVCache, LayerCache
from sparsemix.models.masks import AttentionMask, attention_mask
from sparsemix.models.rotary import Rotary
from sparsemix.routing import TokenInfo


class Tokens(NamedTuple):
    """B x S tokens, the same for every block of a forward pass."""

    rotary: Rotary
    """The angles of their positions."""
    mask: AttentionMask
    """Which keys they see."""
    window_mask: AttentionMask
    """Which they see in blocks with a window."""
    info: TokenInfo
    """For routers."""
    document_BS: Tensor | None = None
    """Which document they belong to; None: one a sequence, or a cache is used."""

    def select(self, index_BC: Tensor, token_N: Tensor, live_BC: Tensor | None, cache: LayerCache | None) -> Tokens:
        """What a block is told that only some of the tokens reach. Takes note of them in the cache.

        Args:
            index_BC: which tokens of each sequence, by position.
            token_N: the same, among all tokens.
            live_BC: bool, False where there are fewer; what then stands there counts as padding. None: nowhere.
            cache: of the layer.
        """
        chosen, num_keys, key_valid = index_BC.shape[1], index_BC.shape[1], live_BC
        if cache is not None:
            assert cache.own_mask is not None
            cache.own_mask.extend(chosen, live_BC)
            num_keys, key_valid = cache.own_mask.length, cache.own_mask.so_far_BS
        document_BC = None if self.document_BS is None else self.document_BS.gather(1, index_BC)
        info = TokenInfo(*(None if field is None else field[token_N] for field in self.info))
        mask = attention_mask(chosen, num_keys, index_BC.device, document_BC, key_valid)
        return Tokens(
            rotary=self.rotary.at(index_BC),
            mask=mask,
            window_mask=mask,  # no such block has a window
            info=info._replace(valid_T=None if live_BC is None else live_BC.flatten()),
            document_BS=document_BC,
        )


def place(
    tokens_BS: Tensor,
    position_BS: Tensor | None,
    document_BS: Tensor | None,
    valid_BS: Tensor | None,
    cache: KVCache | None,
    window: int | None,
) -> tuple[Tensor, AttentionMask, AttentionMask]:
    """Positions, (B or 1, S), and what the tokens see, without and with the window. Takes note of them in the cache."""
    num_new, device = tokens_BS.shape[1], tokens_BS.device
    num_keys, key_valid, before_B = num_new, valid_BS, None
    if cache is not None:
        before_B = cache.mask.count_B
        cache.mask.extend(num_new, valid_BS)
        num_keys, key_valid = cache.length, cache.mask.so_far_BS
    mask = attention_mask(num_new, num_keys, device, document_BS, key_valid)
    window_mask = mask
    if window is not None and window < num_keys:
        window_mask = attention_mask(num_new, num_keys, device, document_BS, key_valid, window)
    if position_BS is not None:
        return position_BS, mask, window_mask
    position = torch.arange(num_new, device=device)[None]
    if valid_BS is not None:
        position = (valid_BS.cumsum(dim=1) - 1).clamp(min=0)
    return position if before_B is None else position + before_B[:, None], mask, window_mask


def token_info(tokens_BS: Tensor, position: Tensor, valid_BS: Tensor | None) -> TokenInfo:
    """What routers may need to know; `position` is (B or 1, S)."""
    sequence_B1 = torch.arange(len(tokens_BS), device=tokens_BS.device)[:, None]
    return TokenInfo(
        valid_T=None if valid_BS is None else valid_BS.flatten(),
        id_T=tokens_BS.flatten(),
        sequence_T=sequence_B1.expand_as(tokens_BS).flatten(),
        position_T=position.expand_as(tokens_BS).flatten(),
    )
