"""Grouped-query attention with rotary positions."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from sparsemix.checks import check
from sparsemix.config import config
from sparsemix.models.attend import attend
from sparsemix.models.cache import LayerCache
from sparsemix.models.masks import AttentionMask
from sparsemix.models.primitives import Linear, RMSNorm
from sparsemix.models.rope_scaling import RopeScaling
from sparsemix.models.rotary import Rotary, rotary_table, rotate


@config
class AttentionConfig:
    """Causal self-attention; heads share keys and values in groups where `num_kv_heads` is lower."""

    type: Literal["grouped"] = "grouped"
    num_heads: int = Field(ge=1)
    """Query heads."""
    num_kv_heads: int | None = Field(default=None, ge=1)
    """Key and value heads, a divisor of `num_heads`; None: as many."""
    head_dim: int | None = Field(default=None, ge=2)
    """Size of a head, even; None: dim / num_heads."""
    qk_norm: Literal["none", "head", "width"] = "none"
    """RMSNorm of queries and keys: of each head (Qwen3), or over the width of all heads together (OLMoE)."""
    bias: Literal["none", "qkv", "qkvo"] = "none"
    """Which projections have a bias: none, those in, or those in and out."""
    sinks: bool = False
    """Give each head a learned logit that takes weight from the tokens and has no value of its own (gpt-oss)."""
    scale: float | None = Field(default=None, gt=0)
    """Multiplies the scores before the softmax; None: 1 / sqrt(size of a head)."""
    rope_theta: float = Field(default=10_000.0, gt=1)
    """Base of the rotary frequencies."""
    rope_scaling: RopeScaling | None = None
    """Stretch the rotary frequencies over a longer context."""

    def __post_init__(self) -> None:
        check(
            self.num_heads % self.kv_heads == 0,
            "num_kv_heads",
            "must divide num_heads",
            f"num_kv_heads={self.kv_heads} with num_heads={self.num_heads}",
            "choose a divisor",
        )

    @property
    def kv_heads(self) -> int:
        """Key and value heads."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    def head_size(self, dim: int) -> int:
        """A, for a model of width `dim`."""
        if self.head_dim is None:
            fits, seen = dim % self.num_heads == 0, f"num_heads={self.num_heads} with dim={dim}"
            check(fits, "num_heads", "must divide dim where head_dim is not given", seen, "give head_dim")
        size = self.head_dim or dim // self.num_heads
        check(
            size % 2 == 0,
            "head_dim",
            "must be even, since rotary embedding turns pairs",
            size,
            "change num_heads",
        )
        return size

    def rotary(self, position_BS: Tensor, dim: int, dtype: torch.dtype) -> Rotary:
        """The angles of these positions, for a model of width `dim`."""
        return rotary_table(position_BS, self.head_size(dim), self.rope_theta, self.rope_scaling, dtype)

    def build(self, dim: int, norm_eps: float = 1e-6) -> Attention:
        """The module, for a model of width `dim`."""
        return Attention(self, dim, norm_eps)


class Attention(nn.Module):
    """softmax(q k^T / sqrt(A)) v for each head, k and v shared by a group, then the output projection."""

    def __init__(self, config: AttentionConfig, dim: int, norm_eps: float) -> None:
        super().__init__()
        self.head_dim = config.head_size(dim)
        self.kv_heads = config.kv_heads
        self.scale = 1 / math.sqrt(self.head_dim) if config.scale is None else config.scale
        width, kv_width = config.num_heads * self.head_dim, config.kv_heads * self.head_dim
        self.query = Linear(dim, width, bias=config.bias != "none")
        self.key = Linear(dim, kv_width, bias=config.bias != "none")
        self.value = Linear(dim, kv_width, bias=config.bias != "none")
        self.output = Linear(width, dim, bias=config.bias == "qkvo")
        self.norm_whole_width = config.qk_norm == "width"
        self.query_norm = self.key_norm = None
        if config.qk_norm != "none":
            self.query_norm = RMSNorm(width if self.norm_whole_width else self.head_dim, norm_eps)
            self.key_norm = RMSNorm(kv_width if self.norm_whole_width else self.head_dim, norm_eps)
        self.sink_H = nn.Parameter(torch.zeros(config.num_heads)) if config.sinks else None

    def forward(self, x_BSD: Tensor, rotary: Rotary, mask: AttentionMask, cache: LayerCache | None = None) -> Tensor:
        """The same shape and dtype as x; `cache` holds the tokens before x and receives those of x."""
        query = rotate(self._heads(self.query(x_BSD), self.query_norm), rotary)
        key = rotate(self._heads(self.key(x_BSD), self.key_norm), rotary)
        value = self._heads(self.value(x_BSD), None)
        if cache is not None:
            key, value = cache.append(key, value)
        mixed_BHSA = attend(query, key, value, mask, self.scale, self.sink_H)
        return self.output(mixed_BHSA.transpose(1, 2).flatten(2))

    def new_cache(self, batch_size: int, max_length: int) -> LayerCache:
        """An empty cache of this layer: keys and values."""
        shape = (batch_size, self.kv_heads, max_length, self.head_dim)
        return LayerCache(*(self.key.weight.new_zeros(shape) for _ in range(2)))

    def _heads(self, x_BSD: Tensor, norm: RMSNorm | None) -> Tensor:
        if norm is not None and self.norm_whole_width:
            x_BSD = norm(x_BSD)
        x_BSHA = x_BSD.unflatten(-1, (-1, self.head_dim))
        if norm is not None and not self.norm_whole_width:
            x_BSHA = norm(x_BSHA)
        return x_BSHA.transpose(1, 2)
