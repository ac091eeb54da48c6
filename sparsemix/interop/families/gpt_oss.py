"""gpt-oss (2508.10925): sinks, windows in every other layer, biases everywhere, clamped gates whose rows alternate."""

from __future__ import annotations

from typing import Any

from sparsemix.experts import ClampedGLUExpertsConfig
from sparsemix.interop.families.common import (
    EXPERTS_KEYS,
    NAMES,
    attention_keys,
    decoder_keys,
    layer_types,
    read_attention,
    read_decoder,
    windowed,
)
from sparsemix.interop.families.family import Family
from sparsemix.interop.families.keys import Keys
from sparsemix.interop.families.rope import Rope, read_rope
from sparsemix.interop.families.rules import Alternating, AlternatingTransposed, Same, Table, Transposed
from sparsemix.layer import MoEConfig
from sparsemix.models import AttentionConfig, DecoderConfig, WindowConfig, YarnConfig
from sparsemix.routers import TopKRouterConfig

TABLE: Table = NAMES | {
    "blocks.*.attention.sink_H": Same("model.layers.*.self_attn.sinks"),
    "blocks.*.ffn.router.weight_ED": Same("model.layers.*.mlp.router.weight"),
    "blocks.*.ffn.router.bias_E": Same("model.layers.*.mlp.router.bias"),
    "blocks.*.ffn.experts.gate_up_EFD": AlternatingTransposed("model.layers.*.mlp.experts.gate_up_proj"),
    "blocks.*.ffn.experts.gate_up_bias_EF": Alternating("model.layers.*.mlp.experts.gate_up_proj_bias"),
    "blocks.*.ffn.experts.down_EDF": Transposed("model.layers.*.mlp.experts.down_proj"),
    "blocks.*.ffn.experts.down_bias_ED": Same("model.layers.*.mlp.experts.down_proj_bias"),
}
THETA = 150_000.0
YARN = YarnConfig(factor=32.0, original_context=4096, truncate=False)
WINDOW = 128
"""Where a config says nothing of positions or of a window."""


def to_ours(keys: Keys) -> DecoderConfig:
    bias = "qkvo" if keys.get("attention_bias", True) else "none"
    keys.only("hidden_act", "silu")
    keys.skip("initial_context_length", "experts_per_token")  # in the published configs, of other names' values
    experts = ClampedGLUExpertsConfig(
        hidden=keys.take("intermediate_size"),
        limit=keys.get("swiglu_limit", 7.0),
        alpha=keys.get("swiglu_alpha", 1.702),
    )
    router = TopKRouterConfig(k=keys.take("num_experts_per_tok"), gate="topk_softmax", bias=True)
    said = keys.has("rope_parameters") or keys.has("rope_scaling")
    rope = read_rope(keys, THETA) if said else Rope(keys.get("rope_theta", THETA), YARN)
    return read_decoder(
        keys,
        attention=read_attention(keys, rope, bias=bias, sinks=True, usual_head=64),
        window=_window(keys),
        moe=MoEConfig(num_experts=keys.take_one(*EXPERTS_KEYS), router=router, experts=experts),
    )


def to_theirs(config: DecoderConfig) -> dict[str, Any] | None:
    match config:
        case DecoderConfig(
            attention=AttentionConfig() as attention,
            moe=MoEConfig(router=TopKRouterConfig() as router, experts=ClampedGLUExpertsConfig() as experts) as moe,
        ):
            return {
                **decoder_keys(config),
                **attention_keys(config),
                "attention_bias": attention.bias == "qkvo",
                "sliding_window": None if config.window is None else config.window.size,
                "layer_types": layer_types(config),
                "num_local_experts": moe.num_experts,
                "num_experts_per_tok": router.k,
                "intermediate_size": experts.hidden,
                "hidden_act": "silu",
                "swiglu_limit": experts.limit,
                "swiglu_alpha": experts.alpha,
            }
    return None


def _window(keys: Keys) -> WindowConfig | None:
    size, num_layers = keys.nullable("sliding_window", WINDOW), keys.peek("num_hidden_layers")
    kinds = keys.get("layer_types")
    layers = tuple(range(0, num_layers, 2)) if kinds is None else windowed(keys, kinds)
    return WindowConfig(size=size, layers=layers) if size and layers else None


GPT_OSS = Family("gpt_oss", "GptOssForCausalLM", to_ours, to_theirs, lambda config: TABLE)
