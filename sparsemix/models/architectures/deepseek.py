"""DeepSeek's published models, as configs."""

from __future__ import annotations

import math

from sparsemix.experts import GLUExpertsConfig
from sparsemix.layer import MoEConfig
from sparsemix.models.architectures.record import runs
from sparsemix.models.attention import AttentionConfig
from sparsemix.models.decoder import DecoderConfig
from sparsemix.models.latent_attention import LatentAttentionConfig
from sparsemix.models.rope_scaling import YarnConfig
from sparsemix.routers import GroupLimitedRouterConfig, TopKRouterConfig


def _deepseek_moe() -> DecoderConfig:
    return DecoderConfig(
        vocab_size=102_400,
        dim=2048,
        num_layers=28,
        context=4096,
        attention=AttentionConfig(num_heads=16),
        moe=MoEConfig(
            num_experts=64,
            router=TopKRouterConfig(k=6, normalize=False),
            experts=GLUExpertsConfig(hidden=1408),
            shared=GLUExpertsConfig(hidden=2 * 1408),
        ),
        ffn=GLUExpertsConfig(hidden=10_944),
        dense_first=1,
    )


def _deepseek_v2() -> DecoderConfig:
    router = GroupLimitedRouterConfig(
        k=6, keep_groups=3, gate="softmax_topk", group_score="best", normalize=False, selection_bias=None
    )
    expert = GLUExpertsConfig(hidden=1536)
    shared = GLUExpertsConfig(hidden=2 * 1536)
    return DecoderConfig(
        vocab_size=102_400,
        dim=5120,
        num_layers=60,
        context=163_840,
        attention=_latent(mscale=0.707),
        moe=MoEConfig(num_experts=160, router=router, experts=expert, shared=shared, routed_scale=16.0),
        ffn=GLUExpertsConfig(hidden=12_288),
        dense_first=1,
    )


def _deepseek_v3() -> DecoderConfig:
    router, expert = GroupLimitedRouterConfig(), GLUExpertsConfig(hidden=2048)
    return DecoderConfig(
        vocab_size=129_280,
        dim=7168,
        num_layers=61,
        context=163_840,
        attention=_latent(mscale=1.0),
        moe=MoEConfig(num_experts=256, router=router, experts=expert, shared=expert, routed_scale=2.5),
        ffn=GLUExpertsConfig(hidden=18_432),
        dense_first=3,
    )


def _latent(mscale: float) -> LatentAttentionConfig:
    """DeepSeek's; `mscale` is what its configuration says of the scores over a context 40 times as long."""
    yarn = YarnConfig(factor=40, original_context=4096, attention_factor=1.0)
    scale = (0.1 * mscale * math.log(yarn.factor) + 1) ** 2 / math.sqrt(128 + 64)
    return LatentAttentionConfig(num_heads=128, q_rank=1536, scale=scale, rope_scaling=yarn)


DEEPSEEK = {
    "deepseekmoe-16b": runs(
        "DeepSeekMoE, 2024 (arXiv 2401.06066), section 5", "16.4B total, 2.8B active", _deepseek_moe()
    ),
    "deepseek-v2": runs(
        "DeepSeek-V2, 2024 (arXiv 2405.04434), section 3.1.2; its released configuration",
        "236B total, 21B active",
        _deepseek_v2(),
    ),
    "deepseek-v3": runs(
        "DeepSeek-V3, 2024 (arXiv 2412.19437), section 4.2; its released configuration",
        "671B total, 37B active",
        _deepseek_v3(),
    ),
}
