"""Llama and the dense models after it: Mistral (windows), Qwen2 (biases of queries, keys and values), Qwen3 (norms)."""

from __future__ import annotations

from typing import Any

from sparsemix.experts import GLUExpertsConfig
from sparsemix.interop.families.common import (
    DENSE,
    NAMES,
    THEIR_ACTIVATIONS,
    WINDOW,
    attention_keys,
    decoder_keys,
    read_activation,
    read_attention,
    read_decoder,
    read_window,
    window_keys,
)
from sparsemix.interop.families.family import Family
from sparsemix.interop.families.keys import Keys
from sparsemix.interop.families.rope import read_rope
from sparsemix.models import AttentionConfig, DecoderConfig, WindowConfig

TABLE = NAMES | DENSE


def llama_to_ours(keys: Keys) -> DecoderConfig:
    bias = "qkvo" if keys.get("attention_bias", False) else "none"
    return read_decoder(keys, attention=read_attention(keys, read_rope(keys), bias=bias), ffn=_ffn(keys))


def llama_to_theirs(config: DecoderConfig) -> dict[str, Any] | None:
    match config:
        case DecoderConfig(attention=AttentionConfig() as attention, ffn=GLUExpertsConfig() as ffn):
            return _dense(config, ffn) | {"attention_bias": attention.bias == "qkvo", "mlp_bias": ffn.bias}
    return None


def mistral_to_ours(keys: Keys) -> DecoderConfig:
    window = keys.nullable("sliding_window", WINDOW)
    return read_decoder(
        keys,
        attention=read_attention(keys, read_rope(keys)),
        ffn=_ffn(keys),
        window=WindowConfig(size=window) if window else None,
    )


def mistral_to_theirs(config: DecoderConfig) -> dict[str, Any] | None:
    match config:
        case DecoderConfig(attention=AttentionConfig(), ffn=GLUExpertsConfig() as ffn):
            return _dense(config, ffn) | {"sliding_window": None if config.window is None else config.window.size}
    return None


def qwen2_to_ours(keys: Keys) -> DecoderConfig:
    window = _upper_window(keys)
    return read_decoder(
        keys, attention=read_attention(keys, read_rope(keys), bias="qkv"), ffn=_ffn(keys), window=window
    )


def qwen2_to_theirs(config: DecoderConfig) -> dict[str, Any] | None:
    match config:
        case DecoderConfig(attention=AttentionConfig(), ffn=GLUExpertsConfig() as ffn):
            return _dense(config, ffn) | window_keys(config)
    return None


def qwen3_to_ours(keys: Keys) -> DecoderConfig:
    window, bias = _upper_window(keys), "qkvo" if keys.get("attention_bias", False) else "none"
    attention = read_attention(keys, read_rope(keys), bias=bias, qk_norm="head", usual_head=128)
    return read_decoder(keys, attention=attention, ffn=_ffn(keys), window=window)


def qwen3_to_theirs(config: DecoderConfig) -> dict[str, Any] | None:
    match config:
        case DecoderConfig(attention=AttentionConfig() as attention, ffn=GLUExpertsConfig() as ffn):
            return _dense(config, ffn) | window_keys(config) | {"attention_bias": attention.bias == "qkvo"}
    return None


def _ffn(keys: Keys) -> GLUExpertsConfig:
    return GLUExpertsConfig(
        hidden=keys.take("intermediate_size"), activation=read_activation(keys), bias=keys.get("mlp_bias", False)
    )


def _upper_window(keys: Keys) -> WindowConfig | None:
    """Qwen's: the layers from `max_window_layers` on have one."""
    num_layers = keys.peek("num_hidden_layers")
    return read_window(keys, tuple(range(keys.get("max_window_layers", 28), num_layers)))


def _dense(config: DecoderConfig, ffn: GLUExpertsConfig) -> dict[str, Any]:
    return {
        **decoder_keys(config),
        **attention_keys(config),
        "intermediate_size": ffn.hidden,
        "hidden_act": THEIR_ACTIVATIONS.get(ffn.activation),
    }


LLAMA = Family("llama", "LlamaForCausalLM", llama_to_ours, llama_to_theirs, lambda config: TABLE)
MISTRAL = Family("mistral", "MistralForCausalLM", mistral_to_ours, mistral_to_theirs, lambda config: TABLE)
QWEN2 = Family("qwen2", "Qwen2ForCausalLM", qwen2_to_ours, qwen2_to_theirs, lambda config: TABLE)
QWEN3 = Family("qwen3", "Qwen3ForCausalLM", qwen3_to_ours, qwen3_to_theirs, lambda config: TABLE)
