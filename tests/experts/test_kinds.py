"""Every kind of stacked or parameterless expert against a loop over edges, value and every gradient."""

from dataclasses import replace
from functools import partial

import pytest
import references
import torch
from cases import edge_lists, numbers, same
from experts import loops
from experts.agreement import assert_is_the_loop, filled
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint

from sparsemix import (
    GLUExpertsConfig,
    MLPExpertsConfig,
    MoEConfig,
    Routing,
    TopKRouterConfig,
    balance_loss,
    sort_by_expert,
)
from sparsemix.config import from_json, to_json
from sparsemix.experts import (
    ClampedGLUExpertsConfig,
    ConcatExpertsConfig,
    ConstantExpertsConfig,
    CopyExpertsConfig,
    Part,
    ZeroExpertsConfig,
)

DIM = 3
CLAMPED = ClampedGLUExpertsConfig(hidden=2, limit=0.8)  # numbers of size 1 are then on both sides of it
SAME_WIDTH = [
    ZeroExpertsConfig(),
    CopyExpertsConfig(),
    ConstantExpertsConfig(),
    CLAMPED,
    replace(CLAMPED, bias=False, backend="reference"),
    replace(CLAMPED, recompute=True, backend="cpu"),
    GLUExpertsConfig(hidden=2, bias=True),
]
ANOTHER_WIDTH = [
    ZeroExpertsConfig(),
    GLUExpertsConfig(hidden=2),
    GLUExpertsConfig(hidden=2, bias=True, activation="gelu"),
    MLPExpertsConfig(hidden=2, activation="gelu"),
    MLPExpertsConfig(hidden=2, bias=True, activation="silu", backend="cpu", recompute=True),
    CLAMPED,
    replace(CLAMPED, backend="reference"),
]
WITH_KERNELS = [config for config in ANOTHER_WIDTH if config.type != "zero"]


def function_of(config, experts, e):
    """Expert e on one token, from the definition and the layer's own parameters."""
    own = [parameter[e] for parameter in experts.parameters()]
    match config.type:
        case "zero":
            return lambda x: x.new_zeros(experts.out_dim)
        case "copy":
            return lambda x: x
        case "constant":
            return partial(references.experts.constant, gate_2D=own[0], value_D=own[1][0])
        case "clamped_glu":
            return lambda x: loops.clamped_glu(x, *own[:2], config.limit, config.alpha, *own[2:])
        case "glu" if config.bias:
            return lambda x: loops.glu(x, *own[:2], config.activation, *own[2:])
        case "glu":
            return lambda x: references.glu(x, *own, config.activation)
        case "mlp":
            return lambda x: references.mlp(x, *own[:2], config.activation, *own[2:])


def functions_of(config, experts):
    return [function_of(config, experts, e) for e in range(experts.num_experts)]


@settings(max_examples=150)
@given(st.sampled_from(SAME_WIDTH), edge_lists())
def test_experts_are_a_loop_over_edges(config, case):
    routing, num_tokens, num_experts = case
    experts = filled(config.build(DIM, num_experts))
    assert_is_the_loop(experts, functions_of(config, experts), numbers(50, num_tokens, DIM), routing)


@settings(max_examples=100)
@given(st.sampled_from(ANOTHER_WIDTH), edge_lists(), st.sampled_from([1, 5, DIM]))
def test_experts_may_change_the_width(config, case, out_dim):
    routing, num_tokens, num_experts = case
    experts = filled(config.build(DIM, num_experts, out_dim))
    x_TD, dispatch = numbers(50, num_tokens, DIM), sort_by_expert(routing, num_experts)
    assert experts(x_TD, dispatch)[0].shape == (num_tokens, out_dim)
    if num_tokens:
        assert_is_the_loop(experts, functions_of(config, experts), x_TD, routing)


@pytest.mark.parametrize("config", WITH_KERNELS)
def test_a_dense_layer_is_one_of_the_experts(config):
    experts, dense = filled(config.build(DIM, 2, 5)), config.build_dense(DIM, 5).double()
    with torch.no_grad():
        for parameter, stacked in zip(dense.parameters(), experts.parameters()):
            parameter.copy_(stacked[1])
    x_D = numbers(50, DIM)
    same(dense(x_D.view(1, 1, DIM)).flatten(), function_of(config, experts, 1)(x_D))


@pytest.mark.parametrize("backend", ["auto", "cpu", "reference"])
def test_a_layer_that_changes_the_width_takes_a_lone_token_too(backend):
    moe = MoEConfig(num_experts=3, experts=GLUExpertsConfig(hidden=2, bias=True, backend=backend)).build(DIM, 5)
    x_TD = torch.randn(1, DIM)
    with torch.no_grad():
        y_TO, _ = moe(x_TD)
    assert y_TO.shape == (1, 5)
    same(y_TO, moe(x_TD)[0].detach(), tolerance=1e-6)


@pytest.mark.parametrize("config", [CopyExpertsConfig(), ConstantExpertsConfig()])
def test_copies_and_constants_keep_the_width(config):
    with pytest.raises(ValueError, match=r"^out_dim: (copy|constant) experts keep the width 3, got 5; leave it out"):
        config.build(DIM, 2, 5)


def test_a_worked_vector_of_the_clamped_unit():
    """g = 7 (clamped from 9), u = -7 (from -8): 7 sigmoid(11.914) (-7 + 1)."""
    experts = ClampedGLUExpertsConfig(hidden=1, bias=False).build(1, 1).double()
    with torch.no_grad():
        experts.gate_up_EFD.copy_(torch.tensor([[[9.0], [-8.0]]]))
        experts.down_EDF.fill_(1)
    routing = Routing(torch.tensor([0]), torch.tensor([0]), torch.ones(1, dtype=torch.float64), edges_per_token=1)
    y_TD, _ = experts(torch.ones(1, 1, dtype=torch.float64), sort_by_expert(routing, 1))
    assert y_TD.item() == pytest.approx(-42 / (1 + 2.718281828459045**-11.914))


# --- in layers -------------------------------------------------------------------------------------------------------

MIXED = ConcatExpertsConfig(
    parts=(
        Part(num_experts=2, experts=CLAMPED),
        Part(experts=ZeroExpertsConfig()),
        Part(experts=CopyExpertsConfig()),
        Part(num_experts=2, experts=ConstantExpertsConfig()),
    )
)


def layer(experts, num_experts=6):
    return MoEConfig(num_experts=num_experts, router=TopKRouterConfig(k=3), experts=experts).build(8)


EVERY_KIND = pytest.mark.parametrize("config", [*SAME_WIDTH, MIXED], ids=lambda config: config.type)


@EVERY_KIND
def test_a_kind_comes_back_from_json_by_its_tag(config):
    assert from_json(MoEConfig, to_json(MoEConfig(num_experts=6, experts=config))).experts == config


@EVERY_KIND
def test_activation_checkpointing_changes_nothing(config):
    moe, x_TD = layer(config), torch.randn(5, 8, requires_grad=True)
    (plain_TD, plain), (again_TD, again) = moe(x_TD), checkpoint(moe, x_TD, use_reentrant=False)
    assert again_TD.equal(plain_TD)
    losses = [y_TD.square().sum() + balance_loss(routing) for y_TD, routing in ((plain_TD, plain), (again_TD, again))]
    inputs = [x_TD, *moe.parameters()]
    for one, other in zip(*(torch.autograd.grad(loss, inputs) for loss in losses)):
        assert one.equal(other)


@EVERY_KIND
def test_bfloat16_by_cast_and_by_autocast(config):
    moe, x_TD = layer(config), torch.randn(5, 8)
    expected_TD = moe(x_TD)[0].detach()
    with torch.autocast("cpu", torch.bfloat16):
        y_TD, routing = moe(x_TD)
    assert y_TD.dtype == torch.bfloat16
    same(y_TD.detach().float(), expected_TD, tolerance=0.1)
    (y_TD.float().sum() + balance_loss(routing)).backward()
    assert {parameter.grad.dtype for parameter in moe.parameters()} == {torch.float32}
    assert moe.bfloat16()(x_TD.bfloat16())[0].dtype == torch.bfloat16


@EVERY_KIND
@pytest.mark.parametrize("num_tokens", [0, 1, 5])
def test_inference_gives_what_training_gives(config, num_tokens):
    moe, x_TD = layer(config), torch.randn(num_tokens, 8)
    expected_TD = moe(x_TD)[0].detach()
    with torch.no_grad():
        same(moe(x_TD)[0], expected_TD, tolerance=1e-5)


@pytest.mark.parametrize("config", SAME_WIDTH)
def test_weights_begin_at_the_scale_of_their_fan_in_and_biases_at_zero(config):
    for name, parameter in config.build(256, 8).named_parameters():
        std = 0 if "bias" in name else parameter.shape[-1] ** -0.5
        assert float(parameter.detach().std()) == pytest.approx(std, rel=0.3), name
