"""The kinds of experts inside a language model: how they begin, and that every part of them learns."""

import pytest
import torch
from models.examples import random_tokens, small_config

from sparsemix import GLUExpertsConfig, MLPExpertsConfig, MoEConfig, TopKRouterConfig, balance_loss
from sparsemix.experts import (
    ClampedGLUExpertsConfig,
    ConcatExpertsConfig,
    ConstantExpertsConfig,
    CopyExpertsConfig,
    Part,
    ZeroExpertsConfig,
)
from sparsemix.layer import MoEExpertsConfig
from sparsemix.models import InitConfig

INSIDE = MoEConfig(num_experts=2, router=TopKRouterConfig(k=2), experts=GLUExpertsConfig(hidden=8))
ALL = ConcatExpertsConfig(
    parts=(
        Part(num_experts=2, experts=GLUExpertsConfig(hidden=48, bias=True)),
        Part(experts=ClampedGLUExpertsConfig(hidden=24)),
        Part(experts=MLPExpertsConfig(hidden=48)),
        Part(experts=ZeroExpertsConfig()),
        Part(experts=CopyExpertsConfig()),
        Part(num_experts=2, experts=ConstantExpertsConfig()),
    )
)


def decoder(experts, num_experts=8, **changes):
    moe = MoEConfig(num_experts=num_experts, router=TopKRouterConfig(k=3), experts=experts)
    return small_config(dim=64, moe=moe, **changes).build()


def test_initialisation_knows_the_parameters_of_every_kind():
    found = decoder(ALL, init=InitConfig(gain=2.0)).state_dict()
    parts = "blocks.1.ffn.experts.parts"
    for name, fan_in in {
        f"{parts}.0.gate_up_EFD": 64,
        f"{parts}.0.down_EDF": 48,
        f"{parts}.1.down_EDF": 24,
        f"{parts}.2.up_EFD": 64,
        f"{parts}.5.share_E2D": 64,
        f"{parts}.5.constant_E1D": 64,
    }.items():
        assert found[name].std().item() == pytest.approx(2 * fan_in**-0.5, rel=0.15), name
    biases = [name for name in found if "bias" in name]
    assert len(biases) == 2 * 2 * 2  # two projections, two kinds, two blocks
    assert not any(found[name].any() for name in biases)


def test_mixtures_inside_begin_as_mixtures_do():
    found = decoder(MoEExpertsConfig(moe=INSIDE), 3, init=InitConfig(router_std=0.5)).state_dict()
    assert found["blocks.1.ffn.experts.experts.2.router.weight_ED"].std().item() == pytest.approx(0.5, rel=0.2)
    assert found["blocks.1.ffn.experts.experts.2.experts.down_EDF"].std().item() == pytest.approx(8**-0.5, rel=0.1)


@pytest.mark.parametrize(("experts", "num_experts"), [(ALL, 8), (MoEExpertsConfig(moe=INSIDE), 3)])
def test_every_parameter_learns_and_a_cache_decodes_the_same(experts, num_experts):
    model, tokens = decoder(experts, num_experts), random_tokens(4, 24)
    output = model(tokens)
    (model.logits(output.hidden_BSD).logsumexp(-1).sum() + balance_loss(output.collected)).backward()
    assert all((parameter.grad != 0).any() for parameter in model.parameters())
    cache, steps = model.new_cache(4, 24), []
    with torch.no_grad():
        for token in tokens.split(1, dim=1):
            steps.append(model(token, cache=cache).hidden_BSD)
    torch.testing.assert_close(torch.cat(steps, dim=1), output.hidden_BSD.detach(), atol=1e-4, rtol=1e-4)
