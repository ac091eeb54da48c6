"""How rotary frequencies are slowed down for a longer context than the one trained on."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from sparsemix.checks import check
from sparsemix.config import config


@config
class LinearRopeConfig:
    """Linear interpolation: all rotations are `factor` times as slow.

    Source: Chen et al., 2023 (arXiv 2306.15595), equation 4.
    """

    type: Literal["linear"] = "linear"
    factor: float = Field(ge=1)
    """How many times longer the context becomes."""

    scale = 1.0

    def frequencies(self, plain: Tensor, theta: float) -> Tensor:
        """The stretched frequencies, (A/2,), from the plain ones."""
        return plain / self.factor


@config
class Llama3RopeConfig:
    """Llama 3.1's: long wavelengths are stretched by `factor`, short ones are kept, with a ramp in frequency between.

    Source: Grattafiori et al., 2024 (arXiv 2407.21783); the released configuration of Llama 3.1.
    """

    type: Literal["llama3"] = "llama3"
    factor: float = Field(default=8.0, ge=1)
    """How many times longer the context becomes."""
    original_context: int = Field(default=8192, ge=1)
    """The context the model was trained on."""
    low_turns: float = Field(default=1.0, gt=0)
    """Dimensions that turn at most so many times in the original context are stretched."""
    high_turns: float = Field(default=4.0, gt=0)
    """Dimensions that turn at least so many times in the original context are kept."""

    scale = 1.0

    def __post_init__(self) -> None:
        seen = f"low_turns={self.low_turns} with high_turns={self.high_turns}"
        check(self.low_turns < self.high_turns, "low_turns", "must be below high_turns", seen, "lower it")

    def frequencies(self, plain: Tensor, theta: float) -> Tensor:
        """The stretched frequencies, (A/2,), from the plain ones."""
        turns = self.original_context * plain / (2 * math.pi)
        kept = ((turns - self.low_turns) / (self.high_turns - self.low_turns)).clamp(0, 1)
        return plain * (kept + (1 - kept) / self.factor)


@config
class YarnConfig:
    """YaRN: slow rotations are interpolated by `factor`, fast ones are kept, with a ramp between.

    Source: Peng et al., 2023 (arXiv 2309.00071), section 3.
    """

    type: Literal["yarn"] = "yarn"
    factor: float = Field(ge=1)
    """How many times longer the context becomes."""
    original_context: int = Field(ge=1)
    """The context the model was trained on."""
    beta_fast: float = Field(default=32, gt=0)
    """Dimensions that turn at least so many times in the original context are kept."""
    beta_slow: float = Field(default=1, gt=0)
    """Dimensions that turn at most so many times in the original context are interpolated."""
    attention_factor: float | None = None
    """Multiplies the parts of queries and keys that turn; None: 0.1 ln(factor) + 1."""
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


RopeScaling = Annotated[LinearRopeConfig | Llama3RopeConfig | YarnConfig, Field(discriminator="type")]
