"""Initialisation: the stated deviations, and streams that nothing else disturbs."""

import math

import pytest
import torch
from models.examples import small_config

from sparsemix.experts import GLUExpertsConfig, MLPExpertsConfig
from sparsemix.layer import MoEConfig
from sparsemix.models import AttentionConfig, InitConfig, initialize
from sparsemix.routers import BASERouterConfig, NoisyTopKRouterConfig, TopKRouterConfig


def weights(seed=0, **changes):
    changes = {
        "dim": 64,
        "vocab_size": 500,
        "attention": AttentionConfig(num_heads=4, qk_norm="head"),
    } | changes
    return small_config(**changes).build(seed).state_dict()


def mixture(num_experts, router=TopKRouterConfig()):  # noqa: B008
    return MoEConfig(num_experts=num_experts, router=router, experts=GLUExpertsConfig(hidden=48))


def assert_std(tensor, expected):
    assert tensor.std().item() == pytest.approx(expected, rel=0.06)
    assert abs(tensor.mean().item()) < 0.1 * expected


def test_fan_in_deviations():
    found = weights(moe=mixture(8))
    assert_std(found["embedding.weight"], 1)
    assert_std(found["unembedding.weight"], 1 / 8)
    assert_std(found["blocks.1.attention.query.weight"], 1 / 8)
    assert_std(found["blocks.1.ffn.experts.gate_up_EFD"], 1 / 8)
    assert_std(found["blocks.1.ffn.experts.down_EDF"], 48**-0.5)
    assert_std(found["blocks.0.ffn.down_DF"], 24**-0.5)
    for name in ("norm.weight", "blocks.2.ffn_norm.weight", "blocks.2.attention.query_norm.weight"):
        assert found[name].unique().tolist() == [1]


def test_stated_deviations():
    init = InitConfig(std=0.02, embedding_std=0.5, unembedding_std=0.1, router_std=0.3, scale_residual=True)
    found = weights(moe=mixture(32, NoisyTopKRouterConfig()), init=init, num_layers=2)
    assert_std(found["embedding.weight"], 0.5)
    assert_std(found["unembedding.weight"], 0.1)
    assert_std(found["blocks.1.ffn.router.weight_ED"], 0.3)
    assert_std(found["blocks.1.attention.value.weight"], 0.02)
    assert_std(found["blocks.1.ffn.experts.down_EDF"], 0.01)
    assert_std(found["blocks.0.ffn.down_DF"], 0.01)
    assert_std(found["blocks.0.attention.output.weight"], 0.01)
    assert not found["blocks.1.ffn.router.noise_ED"].any()
    assert_std(weights(tie_embeddings=True)["embedding.weight"], 1 / math.sqrt(64))


def test_biases_are_zero():
    moe = MoEConfig(num_experts=4, experts=MLPExpertsConfig(hidden=8, bias=True))
    found = weights(moe=moe, attention=AttentionConfig(num_heads=4, bias="qkvo"))
    biases = [name for name in found if "bias" in name]
    assert len(biases) == 3 * 4 + 2 * 2  # four projections in three blocks, two expert biases in two blocks
    assert not any(found[name].any() for name in biases)


def test_another_seed_gives_other_weights():
    assert not torch.equal(weights(seed=0)["embedding.weight"], weights(seed=1)["embedding.weight"])


def test_a_dense_twin_shares_all_but_its_feedforward_layers():
    sparse, dense = weights(), weights(moe=None)
    shared = [name for name in sparse if ".ffn." not in name]
    assert len(shared) > 20
    assert all(torch.equal(sparse[name], dense[name]) for name in shared)


def test_more_experts_and_layers_leave_the_others_as_they_were():
    few, many = weights(moe=mixture(4)), weights(moe=mixture(7), num_layers=5)
    stacked = "blocks.1.ffn.experts.gate_up_EFD"
    assert torch.equal(few[stacked], many[stacked][:4])
    assert not torch.equal(many[stacked][4], many[stacked][5])
    others = [name for name in few if ".experts." not in name and ".router." not in name]
    assert all(torch.equal(few[name], many[name]) for name in others)


def test_dtype_does_not_change_the_numbers_drawn():
    decoder = small_config().build()
    wide = small_config().build(seed=9).double()
    initialize(wide, InitConfig(), seed=0)
    for name, parameter in decoder.state_dict().items():
        torch.testing.assert_close(wide.state_dict()[name].float(), parameter, atol=1e-7, rtol=1e-6)


def test_centroids_of_base_layers_begin_orthogonal_and_otherwise_all_is_the_same():
    routers = (BASERouterConfig(), BASERouterConfig(), TopKRouterConfig())
    base, again, topk = (weights(moe=mixture(6, router), allow_leak=True) for router in routers)
    name, *others = [name for name in base if name.endswith("router.weight_ED")]
    torch.testing.assert_close(base[name] @ base[name].T, 0.01 * torch.eye(6))
    assert torch.equal(base[name], again[name])
    assert not torch.equal(base[name], base[others[0]])
    assert all(torch.equal(base[one], topk[one]) for one in base if one not in (name, *others))
