"""Counts: formula and tensors agree on any config, and FLOPs are those that PyTorch's own counter sees."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models.examples import random_tokens, small_config
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sparsemix.experts import (
    ClampedGLUExpertsConfig,
    ConcatExpertsConfig,
    ConstantExpertsConfig,
    CopyExpertsConfig,
    GLUExpertsConfig,
    MLPExpertsConfig,
    ModuleExpertsConfig,
    Part,
    TiedExpertsConfig,
    ZeroExpertsConfig,
)
from sparsemix.layer import MoEConfig, MoEExpertsConfig
from sparsemix.models import AttentionConfig, DecoderConfig, DepthConfig, LatentAttentionConfig, WindowConfig
from sparsemix.models.counts import count_by_formula, count_by_tensors
from sparsemix.routers import NoisyTopKRouterConfig, SwitchRouterConfig, TopKRouterConfig

dense_layers = st.one_of(
    st.builds(GLUExpertsConfig, hidden=st.integers(1, 9), bias=st.booleans()),
    st.builds(ClampedGLUExpertsConfig, hidden=st.integers(1, 9)),
    st.builds(MLPExpertsConfig, hidden=st.integers(1, 9), bias=st.booleans()),
)
parts = st.builds(
    Part,
    num_experts=st.integers(1, 3),
    experts=dense_layers | st.sampled_from([ZeroExpertsConfig(), CopyExpertsConfig(), ConstantExpertsConfig()]),
)


def routers(num_experts):
    k = st.integers(2, num_experts)
    topk = st.builds(TopKRouterConfig, k=k, bias=st.booleans())
    return topk | st.builds(NoisyTopKRouterConfig, k=k) | st.builds(SwitchRouterConfig)


@st.composite
def mixtures(draw):
    concat = draw(st.none() | st.lists(parts, min_size=2, max_size=3))
    num_experts = draw(st.integers(2, 6)) if concat is None else sum(part.num_experts for part in concat)
    inside = MoEConfig(num_experts=3, experts=GLUExpertsConfig(hidden=2))
    tied = st.builds(TiedExpertsConfig, num_distinct=st.integers(1, num_experts), experts=dense_layers)
    alike = dense_layers | st.just(MoEExpertsConfig(moe=inside)) | tied
    shared = draw(st.none() | dense_layers)
    return MoEConfig(
        num_experts=num_experts,
        router=draw(routers(num_experts)),
        experts=draw(alike) if concat is None else ConcatExpertsConfig(parts=tuple(concat)),
        shared=shared,
        shared_gate=shared is not None and draw(st.booleans()),
    )


attentions = st.builds(
    AttentionConfig,
    num_heads=st.sampled_from([2, 4]),
    num_kv_heads=st.sampled_from([None, 1, 2]),
    head_dim=st.sampled_from([None, 2, 6]),
    qk_norm=st.sampled_from(["none", "head", "width"]),
    bias=st.sampled_from(["none", "qkv", "qkvo"]),
    sinks=st.booleans(),
)
latents = st.builds(
    LatentAttentionConfig,
    num_heads=st.sampled_from([1, 3]),
    q_rank=st.sampled_from([None, 5]),
    kv_rank=st.sampled_from([3, 7]),
    nope_dim=st.sampled_from([1, 6]),
    rope_dim=st.sampled_from([2, 4]),
    value_dim=st.sampled_from([2, 5]),
    bias=st.booleans(),
)
layers = st.lists(st.integers(0, 2), max_size=2).map(tuple)
windows = st.builds(WindowConfig, size=st.integers(1, 12), layers=st.none() | layers)
depths = st.builds(
    DepthConfig,
    capacity=st.sampled_from([0.125, 0.3, 1.0]),
    every=st.integers(1, 3),
    predictor=st.sampled_from(["mlp", "router"]),
    predictor_hidden=st.integers(1, 9),
)
configs = st.builds(
    DecoderConfig,
    vocab_size=st.integers(1, 30),
    dim=st.sampled_from([8, 16]),
    num_layers=st.just(3),
    context=st.integers(1, 99),
    attention=attentions | latents,
    moe=st.none() | mixtures(),
    ffn=dense_layers,
    moe_every=st.integers(1, 3),
    dense_first=st.integers(0, 2),
    dense_layers=layers,
    without_ffn=layers,
    tie_embeddings=st.booleans(),
    depth=st.none() | depths,
)


windowed = st.tuples(configs, windows).map(lambda pair: replace(pair[0], depth=None, window=pair[1]))
alone = configs.map(lambda config: replace(config, moe=None, ffn=None))


@settings(max_examples=40, deadline=None)
@given(configs | windowed | alone)
def test_formula_and_tensors_agree(config):
    assert count_by_formula(config) == count_by_tensors(config)
    assert count_by_formula(config, context=7) == count_by_tensors(config, context=7)


LATENT = LatentAttentionConfig(num_heads=4, kv_rank=7, nope_dim=6, rope_dim=2, value_dim=8)
MIXTURE = MoEConfig(
    num_experts=4,
    router=TopKRouterConfig(k=2),
    experts=GLUExpertsConfig(hidden=12, backend="reference"),
    shared=MLPExpertsConfig(hidden=8, bias=True),
    shared_gate=True,
)


@pytest.mark.parametrize(
    "changes",
    [
        {"attention": AttentionConfig(num_heads=4)},
        {"attention": AttentionConfig(num_heads=2, head_dim=12)},
        {"attention": LATENT},
        {"attention": LatentAttentionConfig(num_heads=2, q_rank=5, kv_rank=7, nope_dim=4, rope_dim=2, value_dim=6)},
        {"dense_layers": (2,), "without_ffn": (1,)},
        {"moe": None, "ffn": None},
        {"moe": replace(MIXTURE, experts=TiedExpertsConfig(num_distinct=3, experts=MIXTURE.experts))},
        {"depth": DepthConfig(capacity=0.5)},
        {"depth": DepthConfig(capacity=0.5, every=1, predictor="router")},
    ],
)
def test_flops_are_those_that_are_computed(changes):
    decoder = small_config(**({"moe": MIXTURE} | changes)).build()
    math = sdpa_kernel(SDPBackend.MATH)  # the counter does not know the CPU's fused attention
    with torch.no_grad(), math, FlopCounterMode(display=False) as counter:
        decoder.logits(decoder(random_tokens(2, 10)).hidden_BSD)
    assert counter.get_total_flops() == 2 * 10 * count_by_formula(decoder.config, context=10).flops_per_token


def test_training_takes_three_times_as_many():
    counts = count_by_formula(small_config())
    assert counts.training_flops_per_token == 3 * counts.flops_per_token


@pytest.mark.parametrize("attention", [AttentionConfig(num_heads=4, num_kv_heads=2), LATENT])
def test_cache_size(attention):
    decoder = small_config(attention=attention).build()
    cache = decoder.new_cache(1, 10)
    assert cache.num_bytes == 4 * 10 * count_by_formula(decoder.config).kv_values_per_token


def test_a_window_caps_the_keys_of_its_layers():
    config = small_config(window=WindowConfig(size=5, layers=(0, 2)))
    few, more, many = (count_by_formula(config, context).flops_per_token for context in (5, 6, 7))
    assert more - few == many - more == 2 * 2 * 16  # the one block without


def test_modules_have_no_formula():
    moe = MoEConfig(num_experts=2, experts=ModuleExpertsConfig(make=lambda dim: torch.nn.Linear(dim, dim)))
    config = small_config(moe=moe)
    with pytest.raises(ValueError, match="experts: must be of a kind that has a formula, got ModuleExpertsConfig"):
        count_by_formula(config)
    counts, dense = count_by_tensors(config), count_by_tensors(small_config(dense_first=2))
    assert counts.parameters_total != dense.parameters_total
