"""OLMoE (2409.02060): norms over the whole width of queries and keys, a mixture in every block."""

from __future__ import annotations

from typing import Any

from sparsemix.experts import GLUExpertsConfig
from sparsemix.interop.families.common import (
    EXPERTS,
    EXPERTS_KEYS,
    NAMES,
    THEIR_ACTIVATIONS,
    attention_keys,
    decoder_keys,
    normalizes,
    read_activation,
    read_attention,
    read_decoder,
)
from sparsemix.interop.families.family import Family
from sparsemix.interop.families.keys import Keys
from sparsemix.interop.families.rope import read_rope
from sparsemix.layer import MoEConfig
from sparsemix.models import AttentionConfig, DecoderConfig
from sparsemix.routers import TopKRouterConfig

TABLE = NAMES | EXPERTS


def to_ours(keys: Keys) -> DecoderConfig:
    keys.only("clip_qkv", None)
    bias = "qkvo" if keys.get("attention_bias", False) else "none"
    experts = GLUExpertsConfig(hidden=keys.take("intermediate_size"), activation=read_activation(keys))
    router = TopKRouterConfig(k=keys.take("num_experts_per_tok"), normalize=keys.get("norm_topk_prob", False))
    return read_decoder(
        keys,
        attention=read_attention(keys, read_rope(keys), bias=bias, qk_norm="width"),
        moe=MoEConfig(num_experts=keys.take_one(*EXPERTS_KEYS), router=router, experts=experts),
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
                "attention_bias": attention.bias == "qkvo",
                "num_experts": moe.num_experts,
                "num_experts_per_tok": router.k,
                "norm_topk_prob": normalizes(router),
                "intermediate_size": experts.hidden,
                "hidden_act": THEIR_ACTIVATIONS.get(experts.activation),
            }
    return None


OLMOE = Family("olmoe", "OlmoeForCausalLM", to_ours, to_theirs, lambda config: TABLE)
