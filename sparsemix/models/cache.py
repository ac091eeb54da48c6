"""The key-value cache: what the tokens so far look like to the tokens to come, allocated once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparsemix.checks import check


class LayerCache:
    """Keys and values of one attention layer, allocated whole; places from `length` on are unused."""

    def __init__(self, key_BHSA: Tensor, value_BHSA: Tensor) -> None:
        self.key_BHSA = key_BHSA
        self.value_BHSA = value_BHSA
        self.length = 0

    def append(self, key_BHSA: Tensor, value_BHSA: Tensor) -> tuple[Tensor, Tensor]:
        """Write the new keys and values behind the old ones; views of all so far."""
        start, self.length = self.length, self.length + key_BHSA.shape[2]
        self.key_BHSA[:, :, start : self.length] = key_BHSA
        self.value_BHSA[:, :, start : self.length] = value_BHSA
        return self.key_BHSA[:, :, : self.length], self.value_BHSA[:, :, : self.length]


class KVCache:
    """One `LayerCache` a layer, and which of the tokens so far are padding. Made by `Decoder.new_cache`."""

    def __init__(self, layers: Sequence[LayerCache], valid_BS: Tensor) -> None:
        self.layers = layers
        self.valid_BS = valid_BS
        self.padded = False
        self.length = 0

    def extend(self, num_new: int, valid_BS: Tensor | None) -> Tensor:
        """Take note of `num_new` tokens; the number of valid tokens of each row before them, (B,)."""
        end, room = self.length + num_new, self.valid_BS.shape[1]
        check(
            end <= room,
            "cache",
            f"holds {room} tokens",
            end,
            "make it longer: Decoder.new_cache(batch, max_length)",
        )
        before_B = self.valid_BS[:, : self.length].sum(dim=1)
        self.valid_BS[:, self.length : end] = True if valid_BS is None else valid_BS
        self.padded |= valid_BS is not None
        self.length = end
        return before_B

    @property
    def key_valid_BS(self) -> Tensor | None:
        """bool, False for padding among the tokens so far; None where there is none."""
        return self.valid_BS[:, : self.length] if self.padded else None

    @property
    def num_bytes(self) -> int:
        """Memory of the keys and values."""
        tensors = [tensor for layer in self.layers for tensor in (layer.key_BHSA, layer.value_BHSA)]
        return sum(torch.numel(tensor) * tensor.element_size() for tensor in tensors)
