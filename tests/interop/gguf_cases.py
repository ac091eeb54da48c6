"""Small models of every architecture of llama.cpp's that equals one of ours, with nothing left at zero."""

from __future__ import annotations

import torch

from sparsemix.experts import ClampedGLUExpertsConfig, GLUExpertsConfig
from sparsemix.interop.stored import StoredModel
from sparsemix.layer import MoEConfig
from sparsemix.models import (
    AttentionConfig,
    DecoderConfig,
    LatentAttentionConfig,
    LinearRopeConfig,
    Llama3RopeConfig,
    WindowConfig,
    YarnConfig,
)
from sparsemix.routers import GroupLimitedRouterConfig, TopKRouterConfig
from sparsemix.tensors import Held

EXPERTS = GLUExpertsConfig(hidden=32)
FFN = GLUExpertsConfig(hidden=96)
NORMALIZED = MoEConfig(num_experts=8, router=TopKRouterConfig(k=2), experts=EXPERTS)
PLAIN = MoEConfig(num_experts=8, router=TopKRouterConfig(k=3, normalize=False), experts=EXPERTS)
YARN = YarnConfig(factor=4, original_context=32, beta_fast=4, beta_slow=1, attention_factor=1.3)


def decoder(attention: AttentionConfig | LatentAttentionConfig, **changes: object) -> DecoderConfig:
    fields = {"vocab_size": 160, "dim": 64, "num_layers": 3, "context": 128, "attention": attention}
    return DecoderConfig(**fields | changes)  # pyright: ignore[reportArgumentType]


def grouped(**changes: object) -> AttentionConfig:
    return AttentionConfig(**{"num_heads": 4, "num_kv_heads": 2} | changes)  # pyright: ignore[reportArgumentType]


def latent(**changes: object) -> LatentAttentionConfig:
    sizes = {"num_heads": 4, "kv_rank": 32, "nope_dim": 16, "rope_dim": 8, "value_dim": 24}
    return LatentAttentionConfig(**sizes | changes)  # pyright: ignore[reportArgumentType]


def _deepseek_v3() -> DecoderConfig:
    router = GroupLimitedRouterConfig(k=3, num_groups=4, keep_groups=2)
    moe = MoEConfig(num_experts=8, router=router, experts=EXPERTS, shared=GLUExpertsConfig(hidden=64), routed_scale=2.5)
    yarn = YarnConfig(factor=4, original_context=32, beta_fast=4, beta_slow=1, attention_factor=1.0)
    scale = 24**-0.5 * (0.1 * torch.tensor(4.0).log().item() + 1) ** 2
    return decoder(latent(q_rank=32, rope_scaling=yarn, scale=scale), moe=moe, ffn=FFN, dense_first=1)


def _deepseek_v2() -> DecoderConfig:
    moe = MoEConfig(
        num_experts=8,
        router=TopKRouterConfig(k=2, normalize=False),
        experts=EXPERTS,
        shared=GLUExpertsConfig(hidden=32),
        routed_scale=1.5,
    )
    return decoder(latent(), moe=moe, ffn=FFN, dense_first=1)


def _gpt_oss() -> DecoderConfig:
    experts = ClampedGLUExpertsConfig(hidden=32)
    moe = MoEConfig(num_experts=8, router=TopKRouterConfig(k=2, gate="topk_softmax", bias=True), experts=experts)
    attention = grouped(head_dim=32, bias="qkvo", sinks=True, rope_scaling=YARN)
    return decoder(attention, moe=moe, window=WindowConfig(size=7, layers=(0, 2)))


SCALES = {"embedding_scale": 3.0, "residual_scale": 0.5, "logit_scale": 0.25}
TWINS = {
    "llama": decoder(grouped(head_dim=32, rope_scaling=Llama3RopeConfig(factor=4, original_context=32)), ffn=FFN),
    "llama: biases": decoder(grouped(bias="qkvo", scale=16**-0.5), ffn=FFN),
    "llama: Mixtral": decoder(
        grouped(rope_theta=1e6),
        moe=MoEConfig(num_experts=8, router=TopKRouterConfig(gate="topk_softmax"), experts=EXPERTS),
    ),
    "qwen2": decoder(grouped(bias="qkv", rope_scaling=LinearRopeConfig(factor=2)), ffn=FFN, tie_embeddings=True),
    "qwen2moe": decoder(
        grouped(bias="qkv"),
        moe=MoEConfig(
            num_experts=8, router=PLAIN.router, experts=EXPERTS, shared=GLUExpertsConfig(hidden=48), shared_gate=True
        ),
        tie_embeddings=True,
    ),
    "qwen3": decoder(grouped(qk_norm="head", head_dim=32, rope_scaling=YARN), ffn=FFN),
    "qwen3moe": decoder(grouped(qk_norm="head", head_dim=32, bias="qkv"), moe=NORMALIZED, ffn=FFN),
    "olmoe": decoder(grouped(num_kv_heads=4, qk_norm="width"), moe=PLAIN),
    "deepseek": decoder(
        grouped(),
        moe=MoEConfig(num_experts=8, router=PLAIN.router, experts=EXPERTS, shared=GLUExpertsConfig(hidden=64)),
        ffn=FFN,
        dense_first=1,
    ),
    "deepseek2: V2": _deepseek_v2(),
    "deepseek2: V3": _deepseek_v3(),
    "gpt-oss": _gpt_oss(),
    "granite": decoder(grouped(scale=0.4), ffn=FFN, **SCALES),
    "granitemoe": decoder(grouped(scale=0.4), moe=NORMALIZED, tie_embeddings=True, **SCALES),
}


def twin(config: DecoderConfig) -> StoredModel:
    """With every tensor random, biases and norms as well, and logits far enough apart to tell greedy tokens."""
    model = config.build().eval()
    generator = torch.Generator().manual_seed(1)
    for name, tensor in model.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator)
        if "norm" in name:
            tensor.add_(0.2 * noise)
        elif tensor.ndim == 1 or "bias" in name:
            tensor.add_(0.3 * noise)
        elif "router" in name:
            tensor.copy_(noise * tensor.shape[-1] ** -0.5 * 2)
    return StoredModel(config, Held(model.state_dict()), "sparsemix")
