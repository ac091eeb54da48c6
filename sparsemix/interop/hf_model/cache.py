"""transformers' key-value cache, as our decoder sees it."""

from __future__ import annotations

from typing import cast

from torch import Tensor
from transformers import Cache

from sparsemix.models.cache import KeyMask, KVCache, LayerCache


def as_ours(cache: Cache, num_layers: int, tokens_BS: Tensor, valid: Tensor | None) -> KVCache:
    """A view for one forward pass: what attention keeps goes to `cache`, whose owner may select, reorder and crop them.

    Args:
        cache: of any kind whose layers grow with the tokens.
        num_layers: of the decoder.
        tokens_BS: the new tokens.
        valid: bool, (B, tokens so far and new), False for padding; None: there is none.
    """
    past, new = cache.get_seq_length(), tokens_BS.shape[1]
    mask = KeyMask(len(tokens_BS), past + new, tokens_BS.device)
    mask.extend(past, None if valid is None else valid[:, :past])
    layers = [cast("LayerCache", _Layer(cache, layer)) for layer in range(num_layers)]
    return KVCache(layers, mask)


class _Layer:
    """What attention uses of a `LayerCache`."""

    def __init__(self, cache: Cache, layer: int) -> None:
        self.cache, self.layer = cache, layer

    def append(self, *new: Tensor) -> tuple[Tensor, ...]:
        """All so far, the new last; attention with latents keeps one tensor, where transformers wants two."""
        keys = new[0]
        values = new[1] if len(new) == 2 else keys[..., :0]
        return self.cache.update(keys, values, self.layer)[: len(new)]
