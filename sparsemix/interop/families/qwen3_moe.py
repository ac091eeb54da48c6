"""Qwen3-MoE (2505.09388): norms of each head of queries and keys, a mixture without shared experts."""

from __future__ import annotations

from typing import Any

from sparsemix.experts import GLUExpertsConfig
from sparsemix.interop.families.common import (
    DENSE,
    EXPERTS,
    EXPERTS_KEYS,
    NAMES,
    THEIR_ACTIVATIONS,
    WINDOW,
    attention_keys,
    decoder_keys,
    dense_keys,
    normalizes,
    read_activation,
    read_attention,
    read_decoder,
)
from sparsemix.interop.families.family import Family
from sparsemix.interop.families.keys import Keys
from sparsemix.interop.families.rope import read_rope
from sparsemix.layer import MoEConfig
from sparsemix.models import AttentionConfig, DecoderConfig, WindowConfig
from sparsemix.routers import TopKRouterConfig

TABLE = NAMES | DENSE | EXPERTS


def to_ours(keys: Keys) -> DecoderConfig:
    activation = read_activation(keys)
    bias = "qkvo" if keys.get("attention_bias", False) else "none"
    window, used = keys.nullable("sliding_window", WINDOW), keys.get("use_sliding_window", False)
    keys.skip("max_window_layers")  # in the published configs, and read by nobody
    keys.only("use_qk_norm", True)  # this and the next two: Qwen3-Coder's config has them
    keys.only("qkv_bias", False)
    keys.only("shared_expert_intermediate_size", 0)
    moe = MoEConfig(
        num_experts=keys.take_one(*EXPERTS_KEYS),
        router=TopKRouterConfig(k=keys.take("num_experts_per_tok"), normalize=keys.get("norm_topk_prob", False)),
        experts=GLUExpertsConfig(hidden=keys.take("moe_intermediate_size"), activation=activation),
    )
    return read_decoder(
        keys,
        attention=read_attention(keys, read_rope(keys), bias=bias, qk_norm="head"),
        moe=moe,
        ffn=GLUExpertsConfig(hidden=keys.take("intermediate_size"), activation=activation),
        moe_every=keys.get("decoder_sparse_step", 1),
        dense_layers=tuple(keys.get("mlp_only_layers", ())),
        window=WindowConfig(size=window) if used and window else None,
    )


def to_theirs(config: DecoderConfig) -> dict[str, Any] | None:
    match config:
        case DecoderConfig(
            attention=AttentionConfig() as attention,
            moe=MoEConfig(router=TopKRouterConfig() as router, experts=GLUExpertsConfig() as experts) as moe,
        ):
            return {
                **decoder_keys(config),
                **attention_keys(config),
                **dense_keys(config),
                "attention_bias": attention.bias == "qkvo",
                "use_sliding_window": config.window is not None,
                "sliding_window": None if config.window is None else config.window.size,
                "num_experts": moe.num_experts,
                "num_experts_per_tok": router.k,
                "norm_topk_prob": normalizes(router),
                "moe_intermediate_size": experts.hidden,
                "hidden_act": THEIR_ACTIVATIONS.get(experts.activation),
            }
    return None


QWEN3_MOE = Family("qwen3_moe", "Qwen3MoeForCausalLM", to_ours, to_theirs, lambda config: TABLE)
