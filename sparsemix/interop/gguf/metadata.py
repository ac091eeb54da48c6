"""What a GGUF file says of the model beside its tensors: sizes, rotary embedding, routing."""

from __future__ import annotations

import math
import warnings

from sparsemix.experts import ClampedGLUExpertsConfig, GLUExpertsConfig
from sparsemix.interop.gguf.architecture import DEEPSEEK2, GPT_OSS, Architecture
from sparsemix.models import DecoderConfig, LatentAttentionConfig, YarnConfig
from sparsemix.routers import GroupLimitedRouterConfig, TopKRouterConfig

Value = str | bool | int | float | list[str] | list[int] | list[bool]

SOFTMAX, SIGMOID = 1, 2


def metadata(config: DecoderConfig, architecture: Architecture) -> dict[str, Value]:
    """Keys and values, in llama.cpp's names."""
    found: dict[str, Value] = {
        "context_length": config.context,
        "embedding_length": config.dim,
        "block_count": config.num_layers,
        "vocab_size": config.vocab_size,
        "attention.head_count": config.attention.num_heads,
        "attention.layer_norm_rms_epsilon": config.norm_eps,
        "rope.freq_base": float(config.attention.rope_theta),
    }
    found |= _heads(config) | _rope(config, architecture) | _widths(config, architecture)
    if config.moe is not None:
        found |= _routing(config)
    if architecture is GPT_OSS:
        found |= _window(config)
    if architecture.scaled:
        found |= _scales(config)
    return {f"{architecture.name}.{key}": value for key, value in found.items()}


def _heads(config: DecoderConfig) -> dict[str, Value]:
    attention = config.attention
    if not isinstance(attention, LatentAttentionConfig):
        size = attention.head_size(config.dim)
        return {
            "attention.head_count_kv": attention.kv_heads,
            "attention.key_length": size,
            "attention.value_length": size,
            "rope.dimension_count": size,
        }
    return {
        "attention.head_count_kv": 1,  # of all that is cached, every head reads the same
        "attention.q_lora_rank": attention.q_rank or 0,
        "attention.kv_lora_rank": attention.kv_rank,
        "attention.key_length": attention.kv_rank + attention.rope_dim,
        "attention.value_length": attention.kv_rank,
        "attention.key_length_mla": attention.nope_dim + attention.rope_dim,
        "attention.value_length_mla": attention.value_dim,
        "rope.dimension_count": attention.rope_dim,
    }


def _widths(config: DecoderConfig, architecture: Architecture) -> dict[str, Value]:
    moe, found = config.moe, dict[str, Value]()
    if moe is None:
        assert config.ffn is not None
        return {"feed_forward_length": config.ffn.hidden}
    assert isinstance(moe.experts, GLUExpertsConfig | ClampedGLUExpertsConfig)
    dense = config.ffn if len(config.moe_layers) < config.num_layers else None
    found["feed_forward_length"] = moe.experts.hidden if dense is None else dense.hidden
    found["expert_feed_forward_length"] = moe.experts.hidden
    if architecture.dense_first:
        assert moe.shared is not None
        found["leading_dense_block_count"] = config.num_layers - len(config.moe_layers)
        found["expert_shared_count"] = moe.shared.hidden // moe.experts.hidden
    elif moe.shared is not None:
        found["expert_shared_feed_forward_length"] = moe.shared.hidden
    return found


def _routing(config: DecoderConfig) -> dict[str, Value]:
    assert config.moe is not None
    router = config.moe.router
    assert isinstance(router, TopKRouterConfig | GroupLimitedRouterConfig)
    found: dict[str, Value] = {
        "expert_count": config.moe.num_experts,
        "expert_used_count": router.k,
        "expert_weights_norm": router.normalize or router.gate == "topk_softmax",
        "expert_weights_scale": float(config.moe.routed_scale),
        "expert_gating_func": SIGMOID if router.gate == "sigmoid" else SOFTMAX,
    }
    if isinstance(router, GroupLimitedRouterConfig) and router.keep_groups < router.num_groups:
        found |= {"expert_group_count": router.num_groups, "expert_group_used_count": router.keep_groups}
    return found


def _window(config: DecoderConfig) -> dict[str, Value]:
    assert config.window is not None
    slides = [layer in config.windowed_layers for layer in range(config.num_layers)]
    return {"attention.sliding_window": config.window.size, "attention.sliding_window_pattern": slides}


def _scales(config: DecoderConfig) -> dict[str, Value]:
    found: dict[str, Value] = {
        "embedding_scale": float(config.embedding_scale),
        "residual_scale": float(config.residual_scale),
        "logit_scale": 1 / config.logit_scale,
    }
    if config.attention.scale is not None:
        found["attention.scale"] = config.attention.scale
    return found


def _rope(config: DecoderConfig, architecture: Architecture) -> dict[str, Value]:
    """Llama 3's stretch is not here: it is a tensor of its own."""
    scaling = config.attention.rope_scaling
    if scaling is None or scaling.type == "llama3":
        return {"rope.scaling.type": "none"}
    found: dict[str, Value] = {"rope.scaling.type": scaling.type, "rope.scaling.factor": float(scaling.factor)}
    if isinstance(scaling, YarnConfig):
        found |= _yarn(config, scaling, architecture)
    return found


def _yarn(config: DecoderConfig, yarn: YarnConfig, architecture: Architecture) -> dict[str, Value]:
    if not yarn.truncate:
        warnings.warn(
            "attention.rope_scaling.truncate: llama.cpp rounds the ends of YaRN's ramp, and this model does not: "
            "its logits will differ slightly",
            stacklevel=2,
        )
    found: dict[str, Value] = {
        "rope.scaling.original_context_length": yarn.original_context,
        "rope.scaling.yarn_beta_fast": float(yarn.beta_fast),
        "rope.scaling.yarn_beta_slow": float(yarn.beta_slow),
    }
    usual = 0.1 * math.log(yarn.factor) + 1  # what llama.cpp multiplies cosines and sines by unless told
    if architecture is not DEEPSEEK2:
        return found | {"rope.scaling.attn_factor": yarn.scale / usual}
    return found | _latent_yarn(config, yarn, usual)


def _latent_yarn(config: DecoderConfig, yarn: YarnConfig, usual: float) -> dict[str, Value]:
    """llama.cpp multiplies cosines and sines by c, and scores by (c (1 + m (usual - 1)))^2 / sqrt(A), where c is
    attn_factor, and m 10 times what the file calls yarn_log_multiplier (transformers: mscale_all_dim)."""
    attention = config.attention
    assert isinstance(attention, LatentAttentionConfig)
    head_dim = attention.nope_dim + attention.rope_dim
    scale = head_dim**-0.5 if attention.scale is None else attention.scale
    stretch = math.sqrt(scale * math.sqrt(head_dim)) / yarn.scale - 1
    if abs(stretch) < 1e-7:  # without the multiplier it counts `usual` into c
        return {"rope.scaling.attn_factor": yarn.scale / usual}
    return {
        "rope.scaling.attn_factor": yarn.scale,
        "rope.scaling.yarn_log_multiplier": 0.1 * stretch / (usual - 1),
    }
