"""Mixtral (2401.04088): a mixture in every block, softmax over the two chosen experts."""

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
from sparsemix.interop.families.rules import Same, Stacked, Table
from sparsemix.layer import MoEConfig
from sparsemix.models import AttentionConfig, DecoderConfig, WindowConfig
from sparsemix.routers import TopKRouterConfig

TABLE: Table = NAMES | {
    "blocks.*.ffn.router.weight_ED": Same("model.layers.*.block_sparse_moe.gate.weight"),
    "blocks.*.ffn.experts.gate_up_EFD": Stacked(
        "model.layers.*.block_sparse_moe.experts.#.w1.weight", "model.layers.*.block_sparse_moe.experts.#.w3.weight"
    ),
    "blocks.*.ffn.experts.down_EDF": Stacked("model.layers.*.block_sparse_moe.experts.#.w2.weight"),
}


def to_ours(keys: Keys) -> DecoderConfig:
    experts = GLUExpertsConfig(hidden=keys.take("intermediate_size"), activation=read_activation(keys))
    router = TopKRouterConfig(k=keys.get("num_experts_per_tok", 2), gate="topk_softmax")
    window = keys.get("sliding_window")
    return read_decoder(
        keys,
        attention=read_attention(keys, read_rope(keys, default_theta=1e6)),
        moe=MoEConfig(num_experts=keys.take_one(*EXPERTS_KEYS), router=router, experts=experts),
        window=WindowConfig(size=window) if window else None,
    )


def to_theirs(config: DecoderConfig) -> dict[str, Any] | None:
    match config:
        case DecoderConfig(
            attention=AttentionConfig(),
            moe=MoEConfig(router=TopKRouterConfig() as router, experts=GLUExpertsConfig() as experts) as moe,
        ):
            return {
                **decoder_keys(config),
                **attention_keys(config),
                "num_local_experts": moe.num_experts,
                "num_experts_per_tok": router.k,
                "intermediate_size": experts.hidden,
                "hidden_act": THEIR_ACTIVATIONS.get(experts.activation),
                "sliding_window": None if config.window is None else config.window.size,
            }
    return None


MIXTRAL = Family("mixtral", "MixtralForCausalLM", to_ours, to_theirs, lambda config: TABLE)
