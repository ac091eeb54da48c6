"""Granite-MoE: Mixtral with multipliers of embeddings, residual branches, scores and logits, and stacked experts."""

from __future__ import annotations

from typing import Any

from sparsemix.experts import GLUExpertsConfig
from sparsemix.interop.families.common import (
    EXPERTS_KEYS,
    NAMES,
    THEIR_ACTIVATIONS,
    attention_keys,
    decoder_keys,
    read_activation,
    read_attention,
    read_decoder,
)
from sparsemix.interop.families.family import Family
from sparsemix.interop.families.keys import Keys
from sparsemix.interop.families.rope import read_rope
from sparsemix.interop.families.rules import Same, Table
from sparsemix.layer import MoEConfig
from sparsemix.models import AttentionConfig, DecoderConfig
from sparsemix.routers import TopKRouterConfig

TABLE: Table = NAMES | {
    "blocks.*.ffn.router.weight_ED": Same("model.layers.*.block_sparse_moe.router.layer.weight"),
    "blocks.*.ffn.experts.gate_up_EFD": Same("model.layers.*.block_sparse_moe.input_linear.weight"),
    "blocks.*.ffn.experts.down_EDF": Same("model.layers.*.block_sparse_moe.output_linear.weight"),
}


def to_ours(keys: Keys) -> DecoderConfig:
    bias = "qkvo" if keys.get("attention_bias", False) else "none"
    experts = GLUExpertsConfig(hidden=keys.take("intermediate_size"), activation=read_activation(keys))
    router = TopKRouterConfig(k=keys.get("num_experts_per_tok", 2), gate="topk_softmax")
    scale = float(keys.get("attention_multiplier", 1.0))
    return read_decoder(
        keys,
        attention=read_attention(keys, read_rope(keys), bias=bias, scale=scale),
        moe=MoEConfig(num_experts=keys.take_one(*EXPERTS_KEYS), router=router, experts=experts),
        embedding_scale=keys.get("embedding_multiplier", 1.0),
        residual_scale=keys.get("residual_multiplier", 1.0),
        logit_scale=1 / keys.get("logits_scaling", 1.0),
    )


def to_theirs(config: DecoderConfig) -> dict[str, Any] | None:
    match config:
        case DecoderConfig(
            attention=AttentionConfig() as attention,
            moe=MoEConfig(router=TopKRouterConfig() as router, experts=GLUExpertsConfig() as experts) as moe,
        ):
            size = attention.head_size(config.dim)
            return {
                **decoder_keys(config),
                **attention_keys(config),
                "attention_bias": attention.bias == "qkvo",
                "attention_multiplier": size**-0.5 if attention.scale is None else attention.scale,
                "embedding_multiplier": config.embedding_scale,
                "residual_multiplier": config.residual_scale,
                "logits_scaling": round(1 / config.logit_scale, 9),  # whose inverse logit_scale is, if any is
                "num_local_experts": moe.num_experts,
                "num_experts_per_tok": router.k,
                "intermediate_size": experts.hidden,
                "hidden_act": THEIR_ACTIVATIONS.get(experts.activation),
            }
    return None


GRANITE_MOE = Family("granitemoe", "GraniteMoeForCausalLM", to_ours, to_theirs, lambda config: TABLE)
