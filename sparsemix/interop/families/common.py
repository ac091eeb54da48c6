"""What families have in common: the keys and names of Llama, which most of them began with."""

from __future__ import annotations

from typing import Any, Literal

from sparsemix.experts import GLUExpertsConfig
from sparsemix.interop.families.keys import Keys
from sparsemix.interop.families.rope import Rope, rope_keys
from sparsemix.interop.families.rules import Joined, Rule, Same, Stacked
from sparsemix.models import AttentionConfig, DecoderConfig, WindowConfig
from sparsemix.routers import TopKRouterConfig

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "relu": "relu",
}
"""Their names of activations -> ours."""
WINDOW = 4096
"""The usual `sliding_window` of Mistral and Qwen, where it is used and the key is missing."""
THEIR_ACTIVATIONS = {"silu": "silu", "gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "relu": "relu"}
EXPERTS_KEYS = ("num_experts", "num_local_experts", "n_routed_experts")
"""What the number of experts goes by; transformers 5 writes another name than the hub has, in some families."""

NAMES: dict[str, Rule] = {
    "embedding.weight": Same("model.embed_tokens.weight"),
    "unembedding.weight": Same("lm_head.weight"),
    "norm.weight": Same("model.norm.weight"),
    "blocks.*.attention_norm.weight": Same("model.layers.*.input_layernorm.weight"),
    "blocks.*.ffn_norm.weight": Same("model.layers.*.post_attention_layernorm.weight"),
    "blocks.*.attention.query.weight": Same("model.layers.*.self_attn.q_proj.weight"),
    "blocks.*.attention.key.weight": Same("model.layers.*.self_attn.k_proj.weight"),
    "blocks.*.attention.value.weight": Same("model.layers.*.self_attn.v_proj.weight"),
    "blocks.*.attention.output.weight": Same("model.layers.*.self_attn.o_proj.weight"),
    "blocks.*.attention.query.bias": Same("model.layers.*.self_attn.q_proj.bias"),
    "blocks.*.attention.key.bias": Same("model.layers.*.self_attn.k_proj.bias"),
    "blocks.*.attention.value.bias": Same("model.layers.*.self_attn.v_proj.bias"),
    "blocks.*.attention.output.bias": Same("model.layers.*.self_attn.o_proj.bias"),
    "blocks.*.attention.query_norm.weight": Same("model.layers.*.self_attn.q_norm.weight"),
    "blocks.*.attention.key_norm.weight": Same("model.layers.*.self_attn.k_norm.weight"),
}
"""Embeddings, norms and grouped attention."""


def dense_names(ours: str, theirs: str) -> dict[str, Rule]:
    """A gated unit: the dense layer of a block, or its shared expert."""
    return {
        f"{ours}.gate_up_FD": Joined(f"{theirs}.gate_proj.weight", f"{theirs}.up_proj.weight"),
        f"{ours}.gate_up_bias_F": Joined(f"{theirs}.gate_proj.bias", f"{theirs}.up_proj.bias"),
        f"{ours}.down_DF": Same(f"{theirs}.down_proj.weight"),
        f"{ours}.down_bias_D": Same(f"{theirs}.down_proj.bias"),
    }


DENSE = dense_names("blocks.*.ffn", "model.layers.*.mlp")
EXPERTS: dict[str, Rule] = {
    "blocks.*.ffn.router.weight_ED": Same("model.layers.*.mlp.gate.weight"),
    "blocks.*.ffn.experts.gate_up_EFD": Stacked(
        "model.layers.*.mlp.experts.#.gate_proj.weight", "model.layers.*.mlp.experts.#.up_proj.weight"
    ),
    "blocks.*.ffn.experts.down_EDF": Stacked("model.layers.*.mlp.experts.#.down_proj.weight"),
}
"""A mixture, as Qwen2-MoE and those after it name it."""


def read_attention(
    keys: Keys,
    rope: Rope,
    *,
    bias: Literal["none", "qkv", "qkvo"] = "none",
    qk_norm: Literal["none", "head", "width"] = "none",
    sinks: bool = False,
    scale: float | None = None,
    usual_head: int | None = None,
) -> AttentionConfig:
    """Grouped attention; `usual_head` is the size of a head where the keys do not say, None: as wide as fits."""
    num_heads, head_dim = keys.take("num_attention_heads"), keys.get("head_dim", usual_head)
    return AttentionConfig(
        num_heads=num_heads,
        num_kv_heads=keys.get("num_key_value_heads"),
        head_dim=None if head_dim == keys.peek("hidden_size") / num_heads else head_dim,
        bias=bias,
        qk_norm=qk_norm,
        sinks=sinks,
        scale=scale,
        rope_theta=rope.theta,
        rope_scaling=rope.scaling,
    )


def attention_keys(config: DecoderConfig) -> dict[str, Any]:
    """The keys of grouped attention."""
    attention = config.attention
    assert isinstance(attention, AttentionConfig)
    return {
        "num_attention_heads": attention.num_heads,
        "num_key_value_heads": attention.kv_heads,
        "head_dim": attention.head_size(config.dim),
        **rope_keys(Rope(attention.rope_theta, attention.rope_scaling)),
    }


def read_decoder(keys: Keys, **parts: Any) -> DecoderConfig:
    """The decoder of these parts; all keys must have been taken by now.

    Raises:
        ValueError: a key is left, or a value is not as it should be.
    """
    config = DecoderConfig(
        vocab_size=keys.take("vocab_size"),
        dim=keys.take("hidden_size"),
        num_layers=keys.take("num_hidden_layers"),
        context=keys.take("max_position_embeddings"),
        tie_embeddings=keys.get("tie_word_embeddings", False),
        norm_eps=keys.take("rms_norm_eps"),
        **parts,
    )
    keys.done()
    return config


def decoder_keys(config: DecoderConfig) -> dict[str, Any]:
    """The keys that every family has."""
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "num_hidden_layers": config.num_layers,
        "max_position_embeddings": config.context,
        "tie_word_embeddings": config.tie_embeddings,
        "rms_norm_eps": config.norm_eps,
    }


def read_activation(keys: Keys) -> Any:
    """Our name of the activation."""
    return keys.choose("hidden_act", ACTIVATIONS, "silu")


def read_window(keys: Keys, layers: tuple[int, ...]) -> WindowConfig | None:
    """The window of Qwen's configs, in `layers` where these do not list the kind of every layer themselves."""
    size, used = keys.nullable("sliding_window", WINDOW), keys.get("use_sliding_window", False)
    kinds = keys.get("layer_types")
    if kinds is not None:
        layers = windowed(keys, kinds)
    return WindowConfig(size=size, layers=layers) if used and size and layers else None


def windowed(keys: Keys, kinds: list[str]) -> tuple[int, ...]:
    """The layers with a window, of a list of the kind of every layer.

    Raises:
        ValueError: a kind that our decoder has not.
    """
    named = Keys({str(layer): kind for layer, kind in enumerate(kinds)}, f"{keys.source}: layer_types")
    choices = {"full_attention": False, "sliding_attention": True}
    return tuple(layer for layer in range(len(kinds)) if named.choose(str(layer), choices, "none"))


def layer_types(config: DecoderConfig) -> list[str]:
    """The kind of every layer."""
    kinds = ("full_attention", "sliding_attention")
    return [kinds[layer in config.windowed_layers] for layer in range(config.num_layers)]


def window_keys(config: DecoderConfig) -> dict[str, Any]:
    """The keys of Qwen's configs for a window."""
    if config.window is None:
        return {"use_sliding_window": False}
    return {
        "use_sliding_window": True,
        "sliding_window": config.window.size,
        "layer_types": layer_types(config),
    }


def normalizes(router: TopKRouterConfig) -> bool:
    """Whether the weights of the chosen experts sum to 1: those of a softmax over the chosen alone always do."""
    return router.gate == "topk_softmax" or router.normalize


def dense_keys(config: DecoderConfig) -> dict[str, Any]:
    """The keys of Qwen's configs for blocks that have no mixture."""
    every, dense = config.moe_every, config.dense_layers
    if config.dense_first:
        every, dense = 1, sorted({*range(config.num_layers)} - {*config.moe_layers})
    hidden = config.ffn.hidden if isinstance(config.ffn, GLUExpertsConfig) else 4 * config.dim  # of no block, then
    return {"decoder_sparse_step": every, "mlp_only_layers": list(dense), "intermediate_size": hidden}
