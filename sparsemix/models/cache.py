"""The key-value cache: what the tokens so far look like to the tokens to come, allocated once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparsemix.checks import check


class KeyMask:
    """Which of the places so far hold a token that others may attend to, and not padding."""

    def __init__(self, batch_size: int, max_length: int, device: torch.device) -> None:
        self.valid_BS = torch.zeros(batch_size, max_length, dtype=torch.bool, device=device)
        self.padded = False
        self.length = 0

    def extend(self, num_new: int, valid_BS: Tensor | None) -> None:
        """Take note of `num_new` places more; None: all hold a token."""
        end, room = self.length + num_new, self.valid_BS.shape[1]
        check(
            end <= room,
            "cache",
            f"holds {room} tokens",
            end,
            "make it longer: Decoder.new_cache(batch, max_length)",
        )
        self.valid_BS[:, self.length : end] = True if valid_BS is None else valid_BS
        self.padded |= valid_BS is not None
        self.length = end

    @property
    def count_B(self) -> Tensor:
        """The tokens of each row, int64."""
        return self.valid_BS[:, : self.length].sum(dim=1)

    @property
    def so_far_BS(self) -> Tensor | None:
        """bool, False for padding; None where there is none."""
        return self.valid_BS[:, : self.length] if self.padded else None


class LayerCache:
    """What an attention layer keeps of each token, as its keys and values, allocated whole: (B, heads, S, size) each.

    Places from `length` on are unused.
    """

    def __init__(self, *kept: Tensor) -> None:
        self.kept = kept
        self.length = 0
        self.own_mask: KeyMask | None = None
        """Of a layer that only some of the tokens reach: its places are not those of other layers."""

    def append(self, *new: Tensor) -> tuple[Tensor, ...]:
        """Write what is new behind the old; views of all so far."""
        start, self.length = self.length, self.length + new[0].shape[2]
        for kept, one in zip(self.kept, new, strict=True):
            kept[:, :, start : self.length] = one
        return tuple(kept[:, :, : self.length] for kept in self.kept)


class KVCache:
    """One `LayerCache` a layer, and which of the tokens so far are padding. Made by `Decoder.new_cache`."""

    def __init__(self, layers: Sequence[LayerCache], mask: KeyMask) -> None:
        self.layers = layers
        self.mask = mask

    @property
    def length(self) -> int:
        """Tokens so far, padding included."""
        return self.mask.length

    @property
    def num_bytes(self) -> int:
        """Memory of what the layers keep."""
        tensors = [tensor for layer in self.layers for tensor in layer.kept]
        return sum(torch.numel(tensor) * tensor.element_size() for tensor in tensors)
