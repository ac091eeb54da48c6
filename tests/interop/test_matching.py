"""Which family a decoder is of, however its config says it; and of none, where a family cannot say all of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sparsemix.experts import GLUExpertsConfig, MLPExpertsConfig
from sparsemix.interop import matching_family
from sparsemix.layer import MoEConfig
from sparsemix.models import AttentionConfig, DecoderConfig, DepthConfig, InitConfig, WindowConfig
from sparsemix.routers import CapacityConfig, SelectionBiasConfig, TopKRouterConfig

EXPERTS = GLUExpertsConfig(hidden=8)
MOE = MoEConfig(num_experts=4, router=TopKRouterConfig(k=2), experts=EXPERTS)
PLAIN = AttentionConfig(num_heads=4)
NORMED = AttentionConfig(num_heads=4, qk_norm="head")


def decoder(**changes: Any) -> DecoderConfig:
    return DecoderConfig(**{"vocab_size": 50, "dim": 16, "num_layers": 4, "context": 32, "attention": PLAIN} | changes)


@pytest.mark.parametrize(
    ("config", "family"),
    [
        (decoder(moe=MOE), "mixtral"),
        (decoder(moe=replace(MOE, router=TopKRouterConfig(k=2, gate="topk_softmax"))), "mixtral"),
        (decoder(moe=replace(MOE, experts=replace(EXPERTS, backend="native", recompute=True))), "mixtral"),
        (decoder(moe=MOE, init=InitConfig(gain=0.5), allow_leak=True), "mixtral"),
        (decoder(moe=MOE, window=WindowConfig(size=5, layers=(0, 1, 2, 3))), "mixtral"),
        (decoder(moe=MOE, attention=NORMED), "qwen3_moe"),
        (decoder(moe=MOE, attention=NORMED, ffn=EXPERTS, dense_first=1, moe_every=2), "qwen3_moe"),
        (decoder(moe=MOE, attention=replace(PLAIN, qk_norm="width")), "olmoe"),
        (decoder(moe=MOE, residual_scale=0.5), "granitemoe"),
        (decoder(moe=replace(MOE, shared=EXPERTS, shared_gate=True)), "qwen2_moe"),
        (decoder(ffn=EXPERTS), "llama"),
        (decoder(ffn=EXPERTS, window=WindowConfig(size=5)), "mistral"),
        (decoder(ffn=EXPERTS, attention=replace(PLAIN, bias="qkv")), "qwen2"),
        (decoder(ffn=EXPERTS, attention=NORMED), "qwen3"),
        (decoder(moe=replace(MOE, shared=EXPERTS)), None),
        (decoder(moe=replace(MOE, experts=MLPExpertsConfig(hidden=8))), None),
        (decoder(moe=replace(MOE, router=TopKRouterConfig(k=2, capacity=CapacityConfig()))), None),
        (decoder(moe=replace(MOE, router=TopKRouterConfig(k=2, selection_bias=SelectionBiasConfig()))), None),
        (decoder(moe=replace(MOE, router=TopKRouterConfig(k=1, normalize=False))), None),
        (decoder(moe=replace(MOE, experts=replace(EXPERTS, activation="relu2"))), None),
        (decoder(moe=MOE, depth=DepthConfig()), None),
        (decoder(moe=MOE, without_ffn=(1,)), None),
        (decoder(attention=replace(PLAIN, sinks=True), ffn=EXPERTS), None),
        (decoder(), None),
    ],
)
def test_the_family_of(config: DecoderConfig, family: str | None) -> None:
    assert matching_family(config) == family
