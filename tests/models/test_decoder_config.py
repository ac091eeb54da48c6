"""Which decoders a config describes, and which it refuses."""

from dataclasses import replace

import pytest
import torch
from models.compare import expect_reference
from models.examples import LATENT, MOE, WITH_SINKS, random_tokens, small_config, small_decoder
from pydantic import ValidationError

from sparsemix.config import from_json, to_json
from sparsemix.experts import GLUExpertsConfig, ModuleExpertsConfig
from sparsemix.layer import MoE
from sparsemix.models import (
    AttentionConfig,
    DecoderConfig,
    DepthConfig,
    WindowConfig,
)
from sparsemix.routers import CapacityConfig, SwitchRouterConfig, TopKRouterConfig
from sparsemix.soft import SoftMoEConfig


@pytest.mark.parametrize(
    ("every", "first", "expected"),
    [(1, 0, (0, 1, 2, 3, 4, 5)), (2, 0, (1, 3, 5)), (1, 2, (2, 3, 4, 5)), (3, 1, (3,)), (1, 6, ())],
)
def test_which_blocks_are_mixtures(every, first, expected):
    config = small_config(num_layers=6, moe_every=every, dense_first=first)
    assert config.moe_layers == expected
    seen = []
    decoder = config.build()
    output = decoder(random_tokens(1, 4), collect=lambda layer, routing: seen.append(layer) or layer * 10)
    assert tuple(seen) == expected
    assert output.collected == tuple(10 * layer for layer in expected)


@pytest.mark.parametrize(
    ("dense", "alone", "expected"),
    [
        ((1,), (), ["dense", "dense", "moe", "moe", "moe"]),
        ((3, 1), (4,), ["dense", "dense", "moe", "dense", "alone"]),
        ((), (0, 2), ["alone", "moe", "alone", "moe", "moe"]),
        ((2,), (2,), ["dense", "moe", "alone", "moe", "moe"]),
    ],
)
def test_some_blocks_are_dense_and_some_are_attention_alone(dense, alone, expected):
    decoder = small_decoder(num_layers=5, dense_layers=dense, without_ffn=alone)
    kinds = {MoE: "moe", type(None): "alone"}
    assert [kinds.get(type(block.ffn), "dense") for block in decoder.blocks] == expected
    assert decoder.config.moe_layers == tuple(layer for layer, kind in enumerate(expected) if kind == "moe")
    expect_reference(decoder)


def test_no_block_need_be_dense():
    small_config(ffn=None, dense_first=0, without_ffn=(1,))
    with pytest.raises(ValueError, match="ffn: must be given where blocks are dense, got none for 1 of 3 blocks"):
        small_config(ffn=None, dense_first=0, without_ffn=(1,), dense_layers=(2,))


@pytest.mark.parametrize("changes", [{}, WITH_SINKS, {"attention": LATENT, "without_ffn": (1,)}])
def test_config_goes_to_json_and_back(changes):
    config = small_config(tie_embeddings=True, moe_every=2, **changes)
    assert from_json(DecoderConfig, to_json(config)) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ffn": None}, "ffn: must be given where blocks are dense, got none for 1 of 3 blocks"),
        ({"ffn": None, "dense_first": 3}, "ffn: must be given where blocks are dense, got none for 3 of 3 blocks"),
        ({"dim": 0}, "greater than or equal to 1"),
        ({"unknown": 1}, "unknown"),
        ({"dense_layers": (3,)}, r"dense_layers: must be in 0..2, the blocks there are, got \(3,\); correct them"),
        ({"without_ffn": (0, -1)}, r"without_ffn: must be in 0..2, .* got \(0, -1\)"),
        ({"window": WindowConfig(size=4, layers=(5,))}, r"window.layers: must be in 0..2, .* got \(5,\)"),
        (
            {"window": WindowConfig(size=4), "depth": DepthConfig()},
            "window: not together with a depth, .* got both in block 1; give window.layers without it",
        ),
    ],
)
def test_config_refuses(changes, message):
    with pytest.raises((ValidationError, ValueError), match=message):
        small_config(**changes)


@pytest.mark.parametrize(
    ("attention", "dim", "message"),
    [
        (AttentionConfig(num_heads=3), 16, "num_heads: must divide dim"),
        (AttentionConfig(num_heads=16), 16, "head_dim: must be even"),
    ],
)
def test_attention_refuses_a_width(attention, dim, message):
    with pytest.raises(ValueError, match=message):
        attention.build(dim)


def test_a_config_refuses_heads_that_do_not_fit():
    with pytest.raises(ValueError, match="num_heads: must divide dim where head_dim is not given, got num_heads=3"):
        small_config(attention=AttentionConfig(num_heads=3))


def test_kv_heads_must_divide_heads():
    with pytest.raises(ValueError, match="num_kv_heads: must divide num_heads, got num_kv_heads=3 with num_heads=4"):
        AttentionConfig(num_heads=4, num_kv_heads=3)


LEAKY = TopKRouterConfig(k=2, capacity=CapacityConfig())


INSIDE_AN_EXPERT = ModuleExpertsConfig(make=lambda dim: replace(MOE, router=LEAKY).build(dim))


@pytest.mark.parametrize(
    ("moe", "where"),
    [
        (replace(MOE, router=LEAKY), "blocks.1.ffn"),
        (replace(MOE, experts=INSIDE_AN_EXPERT), "blocks.1.ffn.experts.experts.0"),
    ],
)
def test_a_router_that_is_not_causal_needs_consent(moe, where):
    message = f"router: must be causal in a decoder, .*, got TopKRouter in {where}; .*set allow_leak=True"
    with pytest.raises(ValueError, match=message):
        small_config(moe=moe).build()
    small_config(moe=moe, allow_leak=True).build()


def test_a_decoder_takes_no_soft_mixture():
    soft = SoftMoEConfig(num_experts=2, experts=GLUExpertsConfig(hidden=4))
    with pytest.raises(ValueError, match=r"moe: .*MoEConfig"):
        small_config(moe=soft)

    class Inside(torch.nn.Module):
        def __init__(self, dim):
            super().__init__()
            self.soft = soft.build(dim)

    with pytest.raises(ValueError, match=r"router: must be causal in a decoder, .*, got SoftRouter in blocks.1.ffn"):
        small_config(moe=replace(MOE, experts=ModuleExpertsConfig(make=Inside))).build()


def test_a_capacity_that_is_causal_needs_none():
    assert small_config(moe=replace(MOE, router=SwitchRouterConfig())).build().blocks[1].ffn.router.causal
