"""A dense twin does the same arithmetic a token, and begins with the same weights outside its FFNs."""

from dataclasses import replace

import pytest
import torch

from sparsemix import (
    DecoderConfig,
    GLUExpertsConfig,
    MLPExpertsConfig,
    ModuleExpertsConfig,
    MoEConfig,
    TopKRouterConfig,
)
from sparsemix.models import AttentionConfig
from sparsemix.models.counts import count_by_formula, count_by_tensors
from sparsemix.recipes.twins import dense_twin

MODEL = DecoderConfig(
    vocab_size=40,
    dim=16,
    num_layers=3,
    context=8,
    attention=AttentionConfig(num_heads=2),
    moe=MoEConfig(num_experts=6, router=TopKRouterConfig(k=2), experts=GLUExpertsConfig(hidden=12)),
)


@pytest.mark.parametrize("shared", [None, GLUExpertsConfig(hidden=5)])
@pytest.mark.parametrize("experts", [GLUExpertsConfig(hidden=12), MLPExpertsConfig(hidden=12, activation="relu2")])
def test_same_arithmetic_but_for_the_router(experts, shared):
    if shared is not None and experts.type == "mlp":
        shared = MLPExpertsConfig(hidden=5)
    model = replace(MODEL, moe=replace(MODEL.moe, experts=experts, shared=shared))
    twin = dense_twin(model)
    assert twin.ffn.hidden == 24 + (5 if shared else 0)
    router = 2 * model.dim * model.moe.num_experts * model.num_layers
    for count in (count_by_formula, count_by_tensors):
        assert count(model).flops_per_token - count(twin).flops_per_token == router
        assert count(model).parameters_active - count(twin).parameters_active == router // 2
    assert type(twin.ffn) is type(experts)


def test_same_initial_weights_outside_the_ffn():
    moe, dense = MODEL.build(seed=3), dense_twin(MODEL).build(seed=3)
    own = dict(dense.named_parameters())
    same = {name for name, parameter in moe.named_parameters() if name in own and torch.equal(parameter, own[name])}
    assert same == {name for name in own if ".ffn." not in name}


def test_what_has_no_twin_is_refused():
    with pytest.raises(ValueError, match="moe: must be there"):
        dense_twin(dense_twin(MODEL))
    with pytest.raises(ValueError, match="shared: must be glu"):
        dense_twin(replace(MODEL, moe=replace(MODEL.moe, shared=MLPExpertsConfig(hidden=4))))
    with pytest.raises(TypeError, match="experts: must be glu or mlp"):
        dense_twin(replace(MODEL, moe=replace(MODEL.moe, experts=ModuleExpertsConfig(make=torch.nn.Identity))))
