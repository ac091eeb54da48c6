"""Multi-head latent attention: keys and values are made of a narrow vector, which is all that a cache holds."""

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
class LatentAttentionConfig:
    """Multi-head latent attention; the sizes are those of DeepSeek-V2 and V3.

    Source: DeepSeek-V2, 2024 (arXiv 2405.04434), section 2.1.
    """

    type: Literal["latent"] = "latent"
    num_heads: int = Field(ge=1)
    """Heads."""
    q_rank: int | None = Field(default=None, ge=1)
    """Size of the narrow vector that queries are made of; None: they are made of x."""
    kv_rank: int = Field(default=512, ge=1)
    """Size of the narrow vector that keys and values are made of."""
    nope_dim: int = Field(default=128, ge=1)
    """Size of the part of a head's queries and keys that has no position."""
    rope_dim: int = Field(default=64, ge=2)
    """Size of the part that turns with the position, even; all heads share this part of the key."""
    value_dim: int = Field(default=128, ge=1)
    """Size of a head's values."""
    bias: bool = False
    """Give the projections to narrow vectors and the output a bias."""
    norm_eps: float | None = Field(default=None, gt=0)
    """Added to the mean square in the norms of narrow vectors; None: the model's."""
    scale: float | None = Field(default=None, gt=0)
    """Multiplies the scores before the softmax; None: 1 / sqrt(nope_dim + rope_dim)."""
    rope_theta: float = Field(default=10_000.0, gt=1)
    """Base of the rotary frequencies."""
    rope_scaling: RopeScaling | None = None
    """Stretch the rotary frequencies over a longer context."""

    def __post_init__(self) -> None:
        even = self.rope_dim % 2 == 0
        check(even, "rope_dim", "must be even, since rotary embedding turns pairs", self.rope_dim, "add one")

    def head_size(self, dim: int) -> int:
        """Size of a head's queries and keys, whatever the model's width."""
        return self.nope_dim + self.rope_dim

    def rotary(self, position_BS: Tensor, dim: int, dtype: torch.dtype) -> Rotary:
        """The angles of these positions, whatever the model's width."""
        return rotary_table(position_BS, self.rope_dim, self.rope_theta, self.rope_scaling, dtype)

    def build(self, dim: int, norm_eps: float = 1e-6) -> LatentAttention:
        """The module, for a model of width `dim`."""
        return LatentAttention(self, dim, norm_eps)


class LatentAttention(nn.Module):
    """c = norm(W_c x); k = [W_k c, rope(W_r x)] and v = W_v c for each head; softmax(q k^T / sqrt(A)) v; the output.

    A cache holds c and rope(W_r x). One token at a time, W_k goes to the query and W_v to what comes out, so that the
    scores are q' [c, rope(W_r x)]^T: the same function, and no key or value of an earlier token is made again.
    """

    def __init__(self, config: LatentAttentionConfig, dim: int, norm_eps: float) -> None:
        super().__init__()
        self.config = config
        self.scale = 1 / math.sqrt(config.head_size(dim)) if config.scale is None else config.scale
        norm_eps = norm_eps if config.norm_eps is None else config.norm_eps
        heads, bias = config.num_heads, config.bias
        width = heads * config.head_size(dim)
        self.query = Linear(dim, width, bias=False) if config.q_rank is None else None
        self.query_down = self.query_norm = self.query_up = None
        if config.q_rank is not None:
            self.query_down = Linear(dim, config.q_rank, bias=bias)
            self.query_norm = RMSNorm(config.q_rank, norm_eps)
            self.query_up = Linear(config.q_rank, width, bias=False)
        self.latent = Linear(dim, config.kv_rank + config.rope_dim, bias=bias)
        self.latent_norm = RMSNorm(config.kv_rank, norm_eps)
        self.key_value_up = Linear(config.kv_rank, heads * (config.nope_dim + config.value_dim), bias=False)
        self.output = Linear(heads * config.value_dim, dim, bias=bias)

    def forward(self, x_BSD: Tensor, rotary: Rotary, mask: AttentionMask, cache: LayerCache | None = None) -> Tensor:
        """The same shape and dtype as x; `cache` holds the tokens before x and receives those of x."""
        query = self._query(x_BSD).unflatten(-1, (self.config.num_heads, -1)).transpose(1, 2)
        query, query_rope = query.split([self.config.nope_dim, self.config.rope_dim], dim=-1)
        query_rope = rotate(query_rope, rotary)
        kept = self._kept(x_BSD, rotary)
        if cache is not None:
            (kept,) = cache.append(kept)
        # An adapter or a quantised layer in the place of key_value_up is more than its weight, and has to be called.
        absorbed = cache is not None and x_BSD.shape[1] == 1 and type(self.key_value_up) is Linear
        mixed = (self._absorbed if absorbed else self._expanded)(query, query_rope, kept, mask)
        return self.output(mixed.transpose(1, 2).flatten(2))

    def new_cache(self, batch_size: int, max_length: int) -> LayerCache:
        """An empty cache of this layer: the narrow vector and the key that turns, behind each other."""
        width = self.config.kv_rank + self.config.rope_dim
        return LayerCache(self.latent.weight.new_zeros(batch_size, 1, max_length, width))

    def _query(self, x_BSD: Tensor) -> Tensor:
        if self.query is not None:
            return self.query(x_BSD)
        assert self.query_down is not None
        assert self.query_norm is not None
        assert self.query_up is not None
        return self.query_up(self.query_norm(self.query_down(x_BSD)))

    def _kept(self, x_BSD: Tensor, rotary: Rotary) -> Tensor:
        """What later tokens need of these, as of one head: (B, 1, S, kv_rank + rope_dim)."""
        latent, key_rope = self.latent(x_BSD)[:, None].split([self.config.kv_rank, self.config.rope_dim], dim=-1)
        return torch.cat([self.latent_norm(latent), rotate(key_rope, rotary)], dim=-1)

    def _expanded(self, query: Tensor, query_rope: Tensor, kept: Tensor, mask: AttentionMask) -> Tensor:
        """With the keys and values of every head."""
        heads, sizes = self.config.num_heads, [self.config.nope_dim, self.config.value_dim]
        latent, key_rope = kept.split([self.config.kv_rank, self.config.rope_dim], dim=-1)
        key, value = self.key_value_up(latent[:, 0]).unflatten(-1, (heads, -1)).transpose(1, 2).split(sizes, dim=-1)
        key = torch.cat([key, key_rope.expand(-1, heads, -1, -1)], dim=-1)
        return attend(torch.cat([query, query_rope], dim=-1), key, value, mask, self.scale)

    def _absorbed(self, query: Tensor, query_rope: Tensor, kept: Tensor, mask: AttentionMask) -> Tensor:
        """One query a head, with what is kept as the key and the value of all heads: they stand as queries of one."""
        up = self.key_value_up.weight.unflatten(0, (self.config.num_heads, -1))
        key_up, value_up = up.split([self.config.nope_dim, self.config.value_dim], dim=1)
        query = torch.cat([query @ key_up, query_rope], dim=-1).transpose(1, 2)
        mixed = attend(query, kept, kept, mask, self.scale)[..., : self.config.kv_rank]
        return mixed.transpose(1, 2) @ value_up.mT
