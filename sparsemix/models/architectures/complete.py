"""Published models that `Decoder` can be, as configs."""

from __future__ import annotations

from sparsemix.experts import ClampedGLUExpertsConfig, GLUExpertsConfig
from sparsemix.layer import MoEConfig
from sparsemix.models.architectures.record import runs
from sparsemix.models.attention import AttentionConfig
from sparsemix.models.decoder import DecoderConfig
from sparsemix.models.masks import WindowConfig
from sparsemix.models.rope_scaling import YarnConfig
from sparsemix.routers import TopKRouterConfig


def _mixtral(layers: int, dim: int, hidden: int, heads: int, vocab: int, context: int) -> DecoderConfig:
    router = TopKRouterConfig(k=2, gate="topk_softmax")
    return DecoderConfig(
        vocab_size=vocab,
        dim=dim,
        num_layers=layers,
        context=context,
        attention=AttentionConfig(num_heads=heads, num_kv_heads=8, rope_theta=1e6),
        moe=MoEConfig(num_experts=8, router=router, experts=GLUExpertsConfig(hidden=hidden)),
        norm_eps=1e-5,
    )


def _olmoe() -> DecoderConfig:
    router = TopKRouterConfig(k=8, normalize=False)
    return DecoderConfig(
        vocab_size=50_304,
        dim=2048,
        num_layers=16,
        context=4096,
        attention=AttentionConfig(num_heads=16, qk_norm="width"),
        moe=MoEConfig(num_experts=64, router=router, experts=GLUExpertsConfig(hidden=1024)),
        norm_eps=1e-5,
    )


def _qwen3(layers: int, dim: int, hidden: int, heads: int) -> DecoderConfig:
    attention = AttentionConfig(num_heads=heads, num_kv_heads=4, head_dim=128, qk_norm="head", rope_theta=1e6)
    return DecoderConfig(
        vocab_size=151_936,
        dim=dim,
        num_layers=layers,
        context=40_960,
        attention=attention,
        moe=MoEConfig(num_experts=128, router=TopKRouterConfig(k=8), experts=GLUExpertsConfig(hidden=hidden)),
    )


def _qwen2(
    layers: int, dim: int, heads: tuple[int, int], experts: int, k: int, hidden: int, shared: int
) -> DecoderConfig:
    return DecoderConfig(
        vocab_size=151_936,
        dim=dim,
        num_layers=layers,
        context=32_768,
        attention=AttentionConfig(num_heads=heads[0], num_kv_heads=heads[1], bias="qkv", rope_theta=1e6),
        moe=MoEConfig(
            num_experts=experts,
            router=TopKRouterConfig(k=k, normalize=False),
            experts=GLUExpertsConfig(hidden=hidden),
            shared=GLUExpertsConfig(hidden=shared),
            shared_gate=True,
        ),
    )


def _gpt_oss(layers: int, experts: int) -> DecoderConfig:
    attention = AttentionConfig(
        num_heads=64,
        num_kv_heads=8,
        head_dim=64,
        bias="qkvo",
        sinks=True,
        rope_theta=150_000,
        rope_scaling=YarnConfig(factor=32, original_context=4096, truncate=False),
    )
    return DecoderConfig(
        vocab_size=201_088,
        dim=2880,
        num_layers=layers,
        context=131_072,
        attention=attention,
        window=WindowConfig(size=128, layers=tuple(range(0, layers, 2))),
        moe=MoEConfig(
            num_experts=experts,
            router=TopKRouterConfig(k=4, gate="topk_softmax", bias=True),
            experts=ClampedGLUExpertsConfig(hidden=2880),
        ),
        norm_eps=1e-5,
    )


def _granite(layers: int, dim: int, heads: int, experts: int) -> DecoderConfig:
    return DecoderConfig(
        vocab_size=49_155,
        dim=dim,
        num_layers=layers,
        context=4096,
        attention=AttentionConfig(num_heads=heads, num_kv_heads=8, scale=1 / 64),
        moe=MoEConfig(
            num_experts=experts,
            router=TopKRouterConfig(k=8, gate="topk_softmax"),
            experts=GLUExpertsConfig(hidden=512),
        ),
        tie_embeddings=True,
        embedding_scale=12,
        residual_scale=0.22,
        logit_scale=1 / 6,
    )


_GPT_OSS = "gpt-oss model card, 2025 (arXiv 2508.10925), table 1; its released configuration"
_GRANITE = "IBM Granite 3.0 language models, 2024; its released configuration"
_MIXTRAL = "Mixtral of Experts, 2024 (arXiv 2401.04088), table 1; its released configuration"
_QWEN2 = "Qwen2 technical report, 2024 (arXiv 2407.10671), table 1; its released configuration"
_QWEN3 = "Qwen3 technical report, 2025 (arXiv 2505.09388), table 2; its released configuration"

COMPLETE = {
    "mixtral-8x7b": runs(
        _MIXTRAL,
        "46.7B total, 12.9B active",
        _mixtral(32, 4096, 14_336, heads=32, vocab=32_000, context=32_768),
    ),
    "mixtral-8x22b": runs(
        _MIXTRAL, "141B total, 39B active", _mixtral(56, 6144, 16_384, heads=48, vocab=32_768, context=65_536)
    ),
    "olmoe-1b-7b": runs("OLMoE, 2024 (arXiv 2409.02060), table 10", "6.9B total, 1.3B active", _olmoe()),
    "qwen1.5-moe-a2.7b": runs(
        "Qwen1.5-MoE, 2024; its released configuration",
        "14.3B total, 2.7B active",
        _qwen2(24, 2048, heads=(16, 16), experts=60, k=4, hidden=1408, shared=5632),
    ),
    "qwen2-57b-a14b": runs(
        _QWEN2,
        "57B total, 14B active",
        _qwen2(28, 3584, heads=(28, 4), experts=64, k=8, hidden=2560, shared=20_480),
    ),
    "qwen3-30b-a3b": runs(_QWEN3, "30.5B total, 3.3B active", _qwen3(48, 2048, 768, heads=32)),
    "qwen3-235b-a22b": runs(_QWEN3, "235B total, 22B active", _qwen3(94, 4096, 1536, heads=64)),
    "granite-3.0-1b-a400m": runs(_GRANITE, "1.3B total, 400M active", _granite(24, 1024, heads=16, experts=32)),
    "granite-3.0-3b-a800m": runs(_GRANITE, "3.3B total, 800M active", _granite(32, 1536, heads=24, experts=40)),
    "gpt-oss-20b": runs(_GPT_OSS, "20.91B total, 3.61B active", _gpt_oss(24, 32), embedding_is_active=False),
    "gpt-oss-120b": runs(_GPT_OSS, "116.83B total, 5.13B active", _gpt_oss(36, 128), embedding_is_active=False),
}
