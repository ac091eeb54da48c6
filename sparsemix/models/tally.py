"""What a part of a model counts: parameters and multiply-adds; and what attention does."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from sparsemix.models.attention import AttentionConfig
from sparsemix.models.latent_attention import LatentAttentionConfig


@dataclass(frozen=True)
class Tally:
    """Parameters of a part, how many of them a token uses on average, and multiply-adds of its matrices for a token."""

    total: int = 0
    active: int | Fraction = 0
    multiply_adds: int | Fraction = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.total + other.total, self.active + other.active, self.multiply_adds + other.multiply_adds)

    def __rmul__(self, times: int) -> Tally:
        return Tally(times * self.total, times * self.active, times * self.multiply_adds)


def matrix(fan_out: int, fan_in: int) -> Tally:
    """A matrix that every token is multiplied with."""
    return Tally(*3 * [fan_out * fan_in])


def vector(size: int) -> Tally:
    """A bias or the weight of a norm: no matrix product."""
    return Tally(size, size, 0)


def routed(expert: Tally, num_experts: int, active: Fraction) -> Tally:
    """E experts, so many of which a token visits on average."""
    return Tally(num_experts * expert.total, active * expert.active, active * expert.multiply_adds)


def attention_tally(config: AttentionConfig | LatentAttentionConfig, dim: int) -> Tally:
    """One layer of attention, but for its norm."""
    return _latent(config, dim) if isinstance(config, LatentAttentionConfig) else _grouped(config, dim)


def attended_width(config: AttentionConfig | LatentAttentionConfig, dim: int) -> int:
    """Multiply-adds of a layer for each key that a token attends to: over the heads, sizes of key and value."""
    value = config.value_dim if isinstance(config, LatentAttentionConfig) else config.head_size(dim)
    return config.num_heads * (config.head_size(dim) + value)


def kept_width(config: AttentionConfig | LatentAttentionConfig, dim: int) -> int:
    """Numbers that the cache of a layer holds for each token."""
    if isinstance(config, LatentAttentionConfig):
        return config.kv_rank + config.rope_dim
    return 2 * config.kv_heads * config.head_size(dim)


def _grouped(config: AttentionConfig, dim: int) -> Tally:
    head = config.head_size(dim)
    width, kv_width = config.num_heads * head, config.kv_heads * head
    tally = 2 * matrix(dim, width) + 2 * matrix(dim, kv_width)
    if config.bias != "none":
        tally += vector(width + 2 * kv_width)
    if config.bias == "qkvo":
        tally += vector(dim)
    if config.qk_norm != "none":
        tally += vector(width + kv_width) if config.qk_norm == "width" else 2 * vector(head)
    return tally + vector(config.num_heads) if config.sinks else tally


def _latent(config: LatentAttentionConfig, dim: int) -> Tally:
    heads, q_rank = config.num_heads, config.q_rank
    width, kept = heads * config.head_size(dim), kept_width(config, dim)
    tally = matrix(kept, dim) + matrix(heads * (config.nope_dim + config.value_dim), config.kv_rank)
    tally += matrix(dim, heads * config.value_dim) + vector(config.kv_rank)
    if q_rank is None:
        tally += matrix(width, dim)
    else:
        tally += matrix(q_rank, dim) + vector(q_rank) + matrix(width, q_rank)
    if config.bias:
        tally += vector(kept + dim + (q_rank or 0))
    return tally
