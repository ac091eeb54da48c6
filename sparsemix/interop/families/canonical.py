"""One config for all that make the same model, so that whether two do is a matter of comparing."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from sparsemix.experts import ClampedGLUExpertsConfig, GLUExpertsConfig, MLPExpertsConfig
from sparsemix.layer import MoEConfig
from sparsemix.models import AttentionConfig, DecoderConfig, InitConfig, WindowConfig, YarnConfig
from sparsemix.routers import GroupLimitedRouterConfig, RouterConfig, SelectionBiasConfig, TopKRouterConfig

E = TypeVar("E")


def canonical(config: DecoderConfig) -> DecoderConfig:
    """The config that stands for all that compute the same from the same weights, apart from how fast.

    How weights begin, how they are trained and what computes them is as by default, and what may be said in several
    ways is said in one.
    """
    layers = range(config.num_layers)
    dense = tuple(layer for layer in layers if layer not in {*config.moe_layers, *config.without_ffn})
    window = None
    if config.windowed_layers and config.window is not None:
        window = WindowConfig(size=config.window.size, layers=config.windowed_layers)
    return replace(
        config,
        attention=_attention(config),
        window=window,
        moe=None if config.moe is None or not config.moe_layers else _moe(config.moe),
        ffn=None if config.ffn is None or not dense else _experts(config.ffn),
        moe_every=1,
        dense_first=0,
        dense_layers=dense if config.moe_layers else (),
        allow_leak=False,
        init=InitConfig(),
    )


def _attention(config: DecoderConfig) -> object:
    attention = config.attention
    size = attention.head_size(config.dim)
    scale = size**-0.5 if attention.scale is None else attention.scale
    rope = attention.rope_scaling
    if isinstance(rope, YarnConfig):
        rope = replace(rope, attention_factor=rope.scale)
    if isinstance(attention, AttentionConfig):
        return replace(attention, head_dim=size, num_kv_heads=attention.kv_heads, scale=scale, rope_scaling=rope)
    norm_eps = config.norm_eps if attention.norm_eps is None else attention.norm_eps
    return replace(attention, scale=scale, norm_eps=norm_eps, rope_scaling=rope)


def _moe(moe: MoEConfig) -> MoEConfig:
    shared = None if moe.shared is None else _experts(moe.shared)
    return replace(moe, router=_router(moe.router), experts=_experts(moe.experts), shared=shared)


def _experts(experts: E) -> E:
    """With any kernel."""
    if isinstance(experts, GLUExpertsConfig | ClampedGLUExpertsConfig | MLPExpertsConfig):
        return replace(experts, backend="auto", recompute=False)
    return experts


def _router(router: RouterConfig) -> RouterConfig:
    """A choice among all groups is one without groups; a softmax among the chosen is one over all, normalised."""
    if isinstance(router, GroupLimitedRouterConfig) and router.keep_groups == router.num_groups:
        router = TopKRouterConfig(
            k=router.k,
            gate=router.gate,
            normalize=router.normalize,
            selection_bias=router.selection_bias,
            capacity=router.capacity,
        )
    if isinstance(router, TopKRouterConfig) and router.gate == "topk_softmax":
        router = replace(router, gate="softmax_topk", normalize=True)
    if isinstance(router, TopKRouterConfig | GroupLimitedRouterConfig) and router.selection_bias is not None:
        router = replace(router, selection_bias=SelectionBiasConfig(form=router.selection_bias.form))
    return router
