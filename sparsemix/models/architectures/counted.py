"""Published models with parts that `Decoder` lacks, as shapes: enough to count them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sparsemix.experts import ClampedGLUExpertsConfig, GLUExpertsConfig
from sparsemix.layer import MoEConfig
from sparsemix.models.architectures.record import Architecture
from sparsemix.models.attention import AttentionConfig
from sparsemix.models.counts import Shape, Tally, ffn_tally, matrix, moe_tally, shape_of, vector
from sparsemix.models.decoder import DecoderConfig
from sparsemix.routers import GroupLimitedRouterConfig, TopKRouterConfig


def _granite(layers: int, dim: int, heads: int, experts: int) -> Architecture:
    config = DecoderConfig(
        vocab_size=49_155,
        dim=dim,
        num_layers=layers,
        context=4096,
        attention=AttentionConfig(num_heads=heads, num_kv_heads=8),
        moe=MoEConfig(
            num_experts=experts,
            router=TopKRouterConfig(k=8, gate="topk_softmax"),
            experts=GLUExpertsConfig(hidden=512),
        ),
        tie_embeddings=True,
    )
    return Architecture(
        source="IBM Granite 3.0 language models, 2024; its released configuration",
        published="1.3B total, 400M active" if layers == 24 else "3.3B total, 800M active",
        context=config.context,
        shape=shape_of(config),
        missing="multipliers of embedding, residual, attention and logits",
    )


def _grok1() -> Architecture:
    config = DecoderConfig(
        vocab_size=131_072,
        dim=6144,
        num_layers=64,
        context=8192,
        attention=AttentionConfig(num_heads=48, num_kv_heads=8),
        moe=MoEConfig(
            num_experts=8,
            router=TopKRouterConfig(k=2, normalize=False),
            experts=GLUExpertsConfig(hidden=32_768, activation="gelu"),
        ),
        tie_embeddings=True,
        norm_eps=1e-5,
    )
    shape = shape_of(config)
    return Architecture(
        source="xai-org/grok-1, run.py and model.py",
        published="314B total, 25% of the weights active",
        context=config.context,
        shape=replace(shape, blocks=shape.blocks + 64 * 2 * vector(6144)),
        missing="norms after attention and experts, multipliers of embedding and logits, capped scores",
    )


def _gpt_oss(layers: int, experts: int, published: str) -> Architecture:
    dim, heads = 2880, 64
    config = DecoderConfig(
        vocab_size=201_088,
        dim=dim,
        num_layers=layers,
        context=131_072,
        attention=AttentionConfig(num_heads=heads, num_kv_heads=8, head_dim=64, bias="qkvo", rope_theta=150_000),
        moe=MoEConfig(
            num_experts=experts,
            router=TopKRouterConfig(k=4, gate="topk_softmax", bias=True),
            experts=ClampedGLUExpertsConfig(hidden=dim),
        ),
        norm_eps=1e-5,
    )
    shape = shape_of(config)
    return Architecture(
        source="gpt-oss model card, 2025 (arXiv 2508.10925), table 1",
        published=published,
        context=config.context,
        shape=replace(
            shape,
            blocks=shape.blocks + layers * vector(heads),  # a sink a head
            attended_width=shape.attended_width // 2,
            windowed_width=shape.attended_width // 2,  # every other layer
            window=128,
        ),
        missing="attention sinks, sliding windows",
        embedding_is_active=False,
    )


@dataclass(frozen=True, kw_only=True)
class _Latent:
    """Multi-head latent attention: queries, and keys with values, pass through narrow projections."""

    heads: int = 128
    query_rank: int = 1536
    kv_rank: int = 512
    content: int = 128
    """Size of a head without the rotary part."""
    rope: int = 64
    value: int = 128

    def tally(self, dim: int) -> Tally:
        """One layer, its two norms included."""
        query = matrix(self.query_rank, dim) + matrix(self.heads * (self.content + self.rope), self.query_rank)
        kv = matrix(self.kv_rank + self.rope, dim) + matrix(self.heads * (self.content + self.value), self.kv_rank)
        return query + kv + matrix(dim, self.heads * self.value) + vector(self.query_rank + self.kv_rank)


def _deepseek(
    source: str, published: str, *, layers: int, dense: int, dim: int, vocab: int, ffn: int, moe: MoEConfig
) -> Architecture:
    latent = _Latent()
    blocks = layers * (latent.tally(dim) + 2 * vector(dim)) + vector(dim)
    blocks += dense * ffn_tally(GLUExpertsConfig(hidden=ffn), dim) + (layers - dense) * moe_tally(moe, dim)
    shape = Shape(
        vocab_size=vocab,
        dim=dim,
        tied=False,
        blocks=blocks,
        attended_width=layers * latent.heads * (latent.content + latent.rope + latent.value),
        kv_values=layers * (latent.kv_rank + latent.rope),
    )
    missing = "multi-head latent attention"
    return Architecture(source=source, published=published, context=163_840, shape=shape, missing=missing)


def _deepseek_v2() -> Architecture:
    expert = GLUExpertsConfig(hidden=1536)
    router = GroupLimitedRouterConfig(
        k=6, keep_groups=3, gate="softmax_topk", group_score="best", normalize=False, selection_bias=None
    )
    return _deepseek(
        "DeepSeek-V2, 2024 (arXiv 2405.04434), section 3.1.2",
        "236B total, 21B active",
        layers=60,
        dense=1,
        dim=5120,
        vocab=102_400,
        ffn=12_288,
        moe=MoEConfig(num_experts=160, router=router, experts=expert, shared=GLUExpertsConfig(hidden=2 * 1536)),
    )


def _deepseek_v3() -> Architecture:
    expert, router = GLUExpertsConfig(hidden=2048), GroupLimitedRouterConfig()
    return _deepseek(
        "DeepSeek-V3, 2024 (arXiv 2412.19437), section 4.2",
        "671B total, 37B active",
        layers=61,
        dense=3,
        dim=7168,
        vocab=129_280,
        ffn=18_432,
        moe=MoEConfig(num_experts=256, router=router, experts=expert, shared=expert, routed_scale=2.5),
    )


COUNTED = {
    "deepseek-v2": _deepseek_v2(),
    "deepseek-v3": _deepseek_v3(),
    "granite-3.0-1b-a400m": _granite(layers=24, dim=1024, heads=16, experts=32),
    "granite-3.0-3b-a800m": _granite(layers=32, dim=1536, heads=24, experts=40),
    "gpt-oss-20b": _gpt_oss(24, 32, "20.91B total, 3.61B active"),
    "gpt-oss-120b": _gpt_oss(36, 128, "116.83B total, 5.13B active"),
    "grok-1": _grok1(),
}
