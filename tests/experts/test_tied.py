"""Columns of a router that share a module compute what that module, copied for each column, would."""

from __future__ import annotations

import pytest
import torch
from cases import DIM, edge_lists, layer_of, numbers, same
from experts import loops
from experts.agreement import assert_is_the_loop, filled
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsemix import GLUExpertsConfig, MLPExpertsConfig, Routing, TopKRouterConfig, sort_by_expert
from sparsemix.config import from_json, to_json
from sparsemix.experts import ClampedGLUExpertsConfig, TiedExpertsConfig

KINDS = [
    GLUExpertsConfig(hidden=2),
    GLUExpertsConfig(hidden=2, bias=True, backend="reference"),
    MLPExpertsConfig(hidden=2, bias=True, activation="silu"),
    ClampedGLUExpertsConfig(hidden=2, limit=0.8),
]


def function_of(config, experts, e):
    """Module number `owner_E[e]` on one token."""
    own = [parameter[experts.owner_E[e]] for parameter in experts.parameters()]
    up, down, up_bias, down_bias = [*own, 0.0, 0.0][:4]
    match config.type:
        case "glu":
            return lambda x: loops.glu(x, up, down, config.activation, up_bias, down_bias)
        case "clamped_glu":
            return lambda x: loops.clamped_glu(x, up, down, config.limit, config.alpha, up_bias, down_bias)
        case "mlp":
            return lambda x: down @ torch.nn.functional.silu(up @ x + up_bias) + down_bias


@pytest.mark.parametrize("config", KINDS, ids=lambda config: config.type)
@settings(max_examples=25)
@given(edges=edge_lists(), data=st.data())
def test_each_column_computes_what_its_module_does(config, edges, data):
    routing, num_tokens, num_experts = edges
    num_distinct = data.draw(st.integers(1, num_experts))
    experts = filled(TiedExpertsConfig(num_distinct=num_distinct, experts=config).build(DIM, num_experts))
    owners = data.draw(st.lists(st.integers(0, num_distinct - 1), min_size=num_experts, max_size=num_experts))
    experts.owner_E.copy_(torch.tensor(owners))
    functions = [function_of(config, experts, e) for e in range(num_experts)]
    assert_is_the_loop(experts, functions, numbers(1, num_tokens, DIM), routing)


@pytest.mark.parametrize("live", [None, [True, True, False], [False, True, True]])
def test_one_token_without_gradient_is_as_in_a_batch(live):
    experts = filled(TiedExpertsConfig(num_distinct=2, experts=GLUExpertsConfig(hidden=2)).build(DIM, 4))
    live_N = None if live is None else torch.tensor(live)
    routing = Routing(torch.zeros(3, dtype=torch.int64), torch.tensor([3, 0, 1]), numbers(2, 3), live_N)
    x_1D = numbers(1, 1, DIM)
    with torch.no_grad():
        alone = experts.one_token(x_1D, routing)
        same(alone, experts(x_1D, sort_by_expert(routing, 4))[0])


def test_owners_are_dealt_out_in_turn_saved_and_loaded():
    config = TiedExpertsConfig(num_distinct=2, experts=GLUExpertsConfig(hidden=2))
    experts, other = config.build(DIM, 5), config.build(DIM, 5)
    assert experts.owner_E.tolist() == [0, 1, 0, 1, 0]
    experts.owner_E.copy_(torch.tensor([1, 1, 0, 0, 1]))
    other.load_state_dict(experts.state_dict())
    assert other.owner_E.tolist() == [1, 1, 0, 0, 1]
    assert other.to(torch.bfloat16).owner_E.dtype == torch.int64


def test_a_layer_of_them_trains():
    config = TiedExpertsConfig(num_distinct=2, experts=GLUExpertsConfig(hidden=2))
    layer = layer_of(4, router=TopKRouterConfig(k=3), experts=config)  # two of three are the same module
    y, routing = layer(numbers(1, 5, DIM))
    y.square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in layer.parameters())
    assert routing.expert_N.max() > 1  # columns are counted, not modules


def test_config_goes_to_json_and_back_and_refuses_more_modules_than_columns():
    config = TiedExpertsConfig(num_distinct=3, experts=MLPExpertsConfig(hidden=2))
    assert from_json(TiedExpertsConfig, to_json(config)) == config
    with pytest.raises(ValueError, match="num_distinct: must be at most num_experts=2, got 3; lower it"):
        config.build(DIM, 2)
