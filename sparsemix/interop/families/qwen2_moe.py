"""Qwen2-MoE (2407.10671): biases of queries, keys and values, and a shared expert behind a gate of its own."""

from __future__ import annotations

from typing import Any

from sparsemix.experts import GLUExpertsConfig
from sparsemix.interop.families.common import (
    DENSE,
    EXPERTS,
    EXPERTS_KEYS,
    NAMES,
    THEIR_ACTIVATIONS,
    attention_keys,
    decoder_keys,
    dense_keys,
    dense_names,
    normalizes,
    read_activation,
    read_attention,
    read_decoder,
    read_window,
    window_keys,
)
from sparsemix.interop.families.family import Family
from sparsemix.interop.families.keys import Keys
from sparsemix.interop.families.rope import read_rope
from sparsemix.interop.families.rules import Same, Table
from sparsemix.layer import MoEConfig
from sparsemix.models import AttentionConfig, DecoderConfig
from sparsemix.routers import TopKRouterConfig

TABLE: Table = {
    **NAMES,
    **DENSE,
    **EXPERTS,
    **dense_names("blocks.*.ffn.shared", "model.layers.*.mlp.shared_expert"),
    "blocks.*.ffn.shared_gate.weight": Same("model.layers.*.mlp.shared_expert_gate.weight"),
}


def to_ours(keys: Keys) -> DecoderConfig:
    activation = read_activation(keys)
    moe = MoEConfig(
        num_experts=keys.take_one(*EXPERTS_KEYS),
        router=TopKRouterConfig(k=keys.take("num_experts_per_tok"), normalize=keys.get("norm_topk_prob", False)),
        experts=GLUExpertsConfig(hidden=keys.take("moe_intermediate_size"), activation=activation),
        shared=GLUExpertsConfig(hidden=keys.take("shared_expert_intermediate_size"), activation=activation),
        shared_gate=True,
    )
    most = min(keys.get("max_window_layers", 28), keys.peek("num_hidden_layers"))
    return read_decoder(
        keys,
        attention=read_attention(keys, read_rope(keys), bias="qkv" if keys.get("qkv_bias", True) else "none"),
        moe=moe,
        ffn=GLUExpertsConfig(hidden=keys.take("intermediate_size"), activation=activation),
        moe_every=keys.get("decoder_sparse_step", 1),
        dense_layers=tuple(keys.get("mlp_only_layers", ())),
        window=read_window(keys, tuple(range(0, most, 2))),
    )


def to_theirs(config: DecoderConfig) -> dict[str, Any] | None:
    match config:
        case DecoderConfig(
            attention=AttentionConfig() as attention,
            moe=MoEConfig(
                router=TopKRouterConfig() as router,
                experts=GLUExpertsConfig() as experts,
                shared=GLUExpertsConfig() as shared,
                shared_gate=True,
            ) as moe,
        ):
            return {
                **decoder_keys(config),
                **attention_keys(config),
                **window_keys(config),
                **dense_keys(config),
                "qkv_bias": attention.bias == "qkv",
                "num_experts": moe.num_experts,
                "num_experts_per_tok": router.k,
                "norm_topk_prob": normalizes(router),
                "moe_intermediate_size": experts.hidden,
                "shared_expert_intermediate_size": shared.hidden,
                "hidden_act": THEIR_ACTIVATIONS.get(experts.activation),
            }
    return None


QWEN2_MOE = Family("qwen2_moe", "Qwen2MoeForCausalLM", to_ours, to_theirs, lambda config: TABLE)
