"""What llama.cpp cannot compute is refused by the name of the field."""

from __future__ import annotations

from typing import Any, TypeGuard

from sparsemix.checks import check
from sparsemix.experts import ClampedGLUExpertsConfig, GLUExpertsConfig
from sparsemix.interop.gguf.architecture import (
    DEEPSEEK2,
    GPT_OSS,
    OLMOE,
    Architecture,
    is_scaled,
    scores_as_usual,
    shared_kind,
)
from sparsemix.layer import MoEConfig
from sparsemix.models import AttentionConfig, DecoderConfig, LatentAttentionConfig
from sparsemix.routers import GroupLimitedRouterConfig, TopKRouterConfig

PLAIN = "must be glu with silu and without bias"


def check_expressible(config: DecoderConfig, architecture: Architecture) -> None:
    """Raise `ValueError` where llama.cpp's code of this architecture computes something else than our decoder."""
    _check_blocks(config, architecture)
    _check_window(config, architecture)
    if isinstance(config.attention, LatentAttentionConfig):
        _check_latent(config, config.attention)
    else:
        _check_grouped(config, config.attention, architecture)
    if config.moe is not None:
        _check_mixture(config, config.moe, architecture)


def _demand(condition: bool, field: str, rule: str, seen: Any, architecture: Architecture) -> None:
    check(condition, field, f"{rule} in llama.cpp's {architecture.name}", seen, "export to a Hugging Face folder")


def _is_plain(kind: object) -> TypeGuard[GLUExpertsConfig]:
    return isinstance(kind, GLUExpertsConfig) and kind.activation == "silu" and not kind.bias


def _is_clamped(kind: object) -> bool:
    return isinstance(kind, ClampedGLUExpertsConfig) and kind.bias and (kind.limit, kind.alpha) == (7.0, 1.702)


def _check_blocks(config: DecoderConfig, architecture: Architecture) -> None:
    _demand(config.depth is None, "depth", "no such thing", "one", architecture)
    first = config.num_layers - len(config.moe_layers)
    dense = [layer for layer in range(config.num_layers) if layer not in config.moe_layers]
    allowed = config.moe is None or dense == (list(range(first)) if architecture.dense_first else [])
    rule = "only blocks at the start may be dense" if architecture.dense_first else "no block may be dense"
    _demand(allowed, "moe", f"{rule} beside mixtures", f"dense blocks {dense}", architecture)
    _demand(not config.without_ffn, "without_ffn", "every block has one", config.without_ffn, architecture)
    if architecture in (OLMOE, GPT_OSS, DEEPSEEK2):
        _demand(config.moe is not None, "moe", "must be given", None, architecture)
    if dense:
        _demand(_is_plain(config.ffn), "ffn", PLAIN, config.ffn, architecture)
    if is_scaled(config) and architecture is not DEEPSEEK2:
        rule = "scales of embedding, residual, logits or attention are unknown"
        _demand(architecture.scaled, "model", rule, "one of them", architecture)


def _check_window(config: DecoderConfig, architecture: Architecture) -> None:
    window = config.window
    if architecture is GPT_OSS:
        _demand(window is not None, "window", "must be given", window, architecture)
    else:
        unlimited = window is None or window.size >= config.context
        _demand(unlimited, "window", "no sliding window", window, architecture)


def _check_rope(config: DecoderConfig, architecture: Architecture) -> None:
    scaling = config.attention.rope_scaling
    known = scaling is None or scaling.type in architecture.ropes
    rule = f"must be one of {', '.join(architecture.ropes)}, or none,"
    _demand(known, "attention.rope_scaling", rule, scaling and scaling.type, architecture)


def _check_grouped(config: DecoderConfig, attention: AttentionConfig, architecture: Architecture) -> None:
    _check_rope(config, architecture)
    width = attention.num_heads * attention.head_size(config.dim)
    if architecture.square:
        rule = f"heads must be together as wide as the model, {config.dim},"
        _demand(width == config.dim, "attention.head_dim", rule, width, architecture)
    if architecture is OLMOE:  # its norm of the keys is as wide as the model
        rule = f"must be {attention.num_heads}, the query heads,"
        _demand(attention.kv_heads == attention.num_heads, "attention.num_kv_heads", rule, attention.kv_heads, OLMOE)
    if not architecture.output_bias:
        rule = "the output must have none"
        _demand(attention.bias != "qkvo", "attention.bias", rule, attention.bias, architecture)
    if architecture is GPT_OSS:
        _demand(attention.bias == "qkvo", "attention.bias", "must be 'qkvo'", repr(attention.bias), architecture)
        _demand(attention.qk_norm == "none", "attention.qk_norm", "must be none", attention.qk_norm, architecture)


def _check_latent(config: DecoderConfig, attention: LatentAttentionConfig) -> None:
    """llama.cpp takes DeepSeek-V2-Lite, and with it no query rank, for granted at some numbers of blocks."""
    _check_rope(config, DEEPSEEK2)
    lite = config.num_layers in (26, 27) or (config.num_layers == 48 and config.vocab_size == 128_256)
    rule = f"must be none with {config.num_layers} blocks"
    _demand(not lite or attention.q_rank is None, "attention.q_rank", rule, attention.q_rank, DEEPSEEK2)
    if attention.rope_scaling is None:
        rule = "must be 1/sqrt(head size) without yarn"
        _demand(scores_as_usual(config), "attention.scale", rule, attention.scale, DEEPSEEK2)
    else:  # its scale is said as a multiple of the logarithm of the factor
        factor = attention.rope_scaling.factor
        _demand(factor > 1, "attention.rope_scaling.factor", "must be above 1", factor, DEEPSEEK2)
    same_eps = attention.norm_eps in (None, config.norm_eps)
    rule = f"must be the model's {config.norm_eps}"
    _demand(same_eps, "attention.norm_eps", rule, attention.norm_eps, DEEPSEEK2)
    _demand(not attention.bias, "attention.bias", "must be False", attention.bias, DEEPSEEK2)
    scales = (config.embedding_scale, config.residual_scale, config.logit_scale)
    _demand(scales == (1, 1, 1), "model", "no scales of embedding, residual and logits", scales, DEEPSEEK2)


def _check_mixture(config: DecoderConfig, moe: MoEConfig, architecture: Architecture) -> None:
    _check_experts(moe, architecture)
    _check_router(moe, architecture)
    kind, known = shared_kind(config), ", ".join(architecture.shared)
    _demand(kind in architecture.shared, "moe.shared", f"must be {known}", kind, architecture)
    if moe.shared is not None:
        _demand(_is_plain(moe.shared), "moe.shared", PLAIN, moe.shared, architecture)
        if architecture.dense_first:
            assert isinstance(moe.experts, GLUExpertsConfig)
            rule = f"hidden must be a multiple of the experts' {moe.experts.hidden}"
            whole = moe.shared.hidden % moe.experts.hidden == 0
            _demand(whole, "moe.shared", rule, moe.shared.hidden, architecture)
    plain = architecture.routed_scale or moe.routed_scale == 1.0
    _demand(plain, "moe.routed_scale", "must be 1", moe.routed_scale, architecture)


def _check_experts(moe: MoEConfig, architecture: Architecture) -> None:
    experts = moe.experts
    if architecture is GPT_OSS:
        rule = "must be clamped_glu with bias, limit 7.0 and alpha 1.702"
        _demand(_is_clamped(experts), "moe.experts", rule, experts, architecture)
    else:
        _demand(_is_plain(experts), "moe.experts", PLAIN, experts, architecture)
    _demand(moe.item_dims == 1, "moe.item_dims", "must be 1", moe.item_dims, architecture)


def _check_router(moe: MoEConfig, architecture: Architecture) -> None:
    router = moe.router
    known = isinstance(router, TopKRouterConfig | GroupLimitedRouterConfig)
    _demand(known, "moe.router", "must be topk, or group_limited", router.type, architecture)
    assert isinstance(router, TopKRouterConfig | GroupLimitedRouterConfig)
    dropless = router.capacity is None or router.capacity.factor_eval is None
    _demand(dropless, "moe.router.capacity", "no factor_eval", router.capacity, architecture)
    sums_to_one = router.normalize or router.gate == "topk_softmax"
    fits = architecture.normalize in (None, sums_to_one)
    _demand(fits, "moe.router.normalize", f"must be {architecture.normalize}", router.normalize, architecture)
    if architecture is not DEEPSEEK2:
        rule = "must be softmax_topk or topk_softmax"
        _demand(router.gate != "sigmoid", "moe.router.gate", rule, router.gate, architecture)
        unbiased = router.selection_bias is None
        _demand(unbiased, "moe.router.selection_bias", "must be none", router.selection_bias, architecture)
    if router.selection_bias is not None:
        form = router.selection_bias.form
        _demand(form == "additive", "moe.router.selection_bias.form", "must be 'additive'", form, architecture)
    has_bias = isinstance(router, TopKRouterConfig) and router.bias
    rule = f"must be {architecture is GPT_OSS}"
    _demand(has_bias == (architecture is GPT_OSS), "moe.router.bias", rule, has_bias, architecture)
    if isinstance(router, GroupLimitedRouterConfig):
        _check_groups(moe, router, architecture)


def _check_groups(moe: MoEConfig, router: GroupLimitedRouterConfig, architecture: Architecture) -> None:
    """Experts outside the kept groups are never chosen there; ours may let them count 0, as transformers does, which
    is the same unless a biased score is negative."""
    if router.keep_groups == router.num_groups:
        return
    best_two = router.group_score == "two_best" and moe.num_experts >= 2 * router.num_groups
    _demand(architecture is DEEPSEEK2, "moe.router.keep_groups", "must be all", router.keep_groups, architecture)
    rule = "groups must compete by the sum of their two best"
    _demand(best_two, "moe.router.group_score", rule, router.group_score, architecture)
