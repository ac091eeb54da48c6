"""Rotary position embedding, and YaRN, which stretches it over a longer context than the one trained on."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from sparsemix.config import config


@config
class YarnConfig:
    """YaRN: slow rotations are interpolated by `factor`, fast ones are kept, with a ramp between.

    Source: Peng et al., 2023 (arXiv 2309.00071), section 3.
    """

    factor: float = Field(ge=1)
    """How many times longer the context becomes."""
    original_context: int = Field(ge=1)
    """The context the model was trained on."""
    beta_fast: float = Field(default=32, gt=0)
    """Dimensions that turn at least so many times in the original context are kept."""
    beta_slow: float = Field(default=1, gt=0)
    """Dimensions that turn at most so many times in the original context are interpolated."""
    attention_factor: float | None = None
    """Multiplies queries and keys; None: 0.1 ln(factor) + 1."""
    truncate: bool = True
    """Round the ends of the ramp outwards to whole dimensions."""

    def frequencies(self, plain: Tensor, theta: float) -> Tensor:
        """The stretched frequencies, (A/2,), from the plain ones."""
        low, high = self._ramp(2 * len(plain), theta)
        index = torch.arange(len(plain), dtype=plain.dtype, device=plain.device)
        interpolated = ((index - low) / (high - low)).clamp(0, 1)
        return plain * (1 - interpolated + interpolated / self.factor)

    @property
    def scale(self) -> float:
        """What multiplies the cosines and sines."""
        return 0.1 * math.log(self.factor) + 1 if self.attention_factor is None else self.attention_factor

    def _ramp(self, head_dim: int, theta: float) -> tuple[float, float]:
        def dimension(turns: float) -> float:
            wavelengths = math.log(self.original_context / (2 * math.pi * turns))
            return head_dim * wavelengths / (2 * math.log(theta))

        low, high = dimension(self.beta_fast), dimension(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, head_dim - 1)
        return low, high if high != low else low + 1e-3  # a step where the ramp has no width


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
    position_BS: Tensor, head_dim: int, theta: float, yarn: YarnConfig | None, dtype: torch.dtype
) -> Rotary:
    """cos and sin of position * theta^(-2i / head_dim) for i < head_dim / 2, in `dtype`."""
    exponent = torch.arange(0, head_dim, 2, dtype=dtype, device=position_BS.device) / head_dim
    frequency_A = theta**-exponent
    scale = 1.0
    if yarn is not None:
        frequency_A, scale = yarn.frequencies(frequency_A, theta), yarn.scale
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
