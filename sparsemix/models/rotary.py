"""Rotary position embedding: pairs of a head's numbers turn with the position."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sparsemix.models.rope_scaling import RopeScaling


class Rotary(NamedTuple):
    """Cosines and sines, shared by all layers. Made at each forward: no buffer to save, cast or move."""

    cos_B1SA: Tensor
    """Here A is half the head size, and B is 1 where all rows have the same positions."""
    sin_B1SA: Tensor

    def at(self, index_BC: Tensor) -> Rotary:
        """Those of some tokens of each row."""
        rows = torch.arange(len(index_BC), device=index_BC.device) % len(self.cos_B1SA)
        return Rotary(*(table[rows[:, None], 0, index_BC][:, None] for table in self))


def rotary_table(
    position_BS: Tensor, head_dim: int, theta: float, scaling: RopeScaling | None, dtype: torch.dtype
) -> Rotary:
    """cos and sin of position * theta^(-2i / head_dim) for i < head_dim / 2, in `dtype`."""
    exponent = torch.arange(0, head_dim, 2, dtype=dtype, device=position_BS.device) / head_dim
    frequency_A = theta**-exponent
    scale = 1.0
    if scaling is not None:
        frequency_A, scale = scaling.frequencies(frequency_A, theta), scaling.scale
    angle_B1SA = position_BS[:, None, :, None].to(dtype) * frequency_A
    return Rotary(angle_B1SA.cos() * scale, angle_B1SA.sin() * scale)


def rotate(x_BHSA: Tensor, rotary: Rotary) -> Tensor:
    """Turn the pairs (x_i, x_{i + A/2}) by their position's angles; the same dtype as x.

    Source: Su et al., 2021 (arXiv 2104.09864), equation 34. Differs: pairs are half a head apart.
    """
    first, second = x_BHSA.chunk(2, dim=-1)
    cos, sin = rotary
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    return turned.to(x_BHSA.dtype)
