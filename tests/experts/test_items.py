"""Experts of items that are not vectors: convolutional and recurrent ones, and how such items are routed."""

import pytest
import references
import torch
from cases import numbers, same
from experts import loops
from experts.agreement import assert_is_the_loop, filled
from torch import nn

from sparsemix import (
    GLUExpertsConfig,
    MLPExpertsConfig,
    ModuleExperts,
    ModuleExpertsConfig,
    MoE,
    MoEConfig,
    Routing,
    TopKRouterConfig,
    sort_by_expert,
)
from sparsemix.config import from_json, to_json
from sparsemix.experts import ConstantExpertsConfig, CopyExpertsConfig, LSTMExpertsConfig, ZeroExpertsConfig
from sparsemix.routers import PooledRouter, SelectionBiasConfig

DIM, LENGTH = 3, 4


def edges() -> Routing:
    """Four items; expert 1 has no rows, and one row of expert 2 is dead."""
    token_N, expert_N = torch.tensor([0, 0, 1, 2, 3, 3]), torch.tensor([2, 0, 0, 2, 3, 2])
    live_N = torch.tensor([True, True, True, False, True, True])
    return Routing(token_N, expert_N, numbers(9, 6).requires_grad_(), live_N)


def lstm_of(expert: nn.Module):
    own = [*expert.lstm.parameters(), expert.output.weight]
    return lambda x_SD: loops.lstm(x_SD, *own)


@pytest.mark.parametrize("out_dim", [None, 5])
def test_lstms_read_whole_sequences(out_dim):
    experts = filled(LSTMExpertsConfig(hidden=2).build(DIM, 4, out_dim))
    functions = [lstm_of(expert) for expert in experts.experts]
    assert_is_the_loop(experts, functions, numbers(50, 4, LENGTH, DIM), edges())


@pytest.mark.parametrize(("padding", "out_shape"), [(1, (5, None)), (0, (5, LENGTH - 2))])
def test_convolutions_may_change_the_shape_of_items(padding, out_shape):
    experts = filled(ModuleExperts([nn.Conv1d(DIM, 5, 3, padding=padding) for _ in range(4)], out_shape))
    assert_is_the_loop(experts, list(experts.experts), numbers(50, 4, DIM, LENGTH), edges())


def test_copies_and_zeros_take_items_of_any_shape():
    x = numbers(50, 4, 2, LENGTH, DIM)
    assert_is_the_loop(CopyExpertsConfig().build(DIM, 4), 4 * [lambda x: x], x, edges())
    zeros, _ = ZeroExpertsConfig().build(DIM, 4)(x, sort_by_expert(edges(), 4))
    assert zeros.equal(torch.zeros_like(x))


@pytest.mark.parametrize("num_tokens", [0, 2])
def test_the_shape_is_known_where_no_row_is(num_tokens):
    experts = ModuleExperts([nn.Conv1d(3, 8, 1), nn.Conv1d(3, 8, 1)], (8, None))
    nothing = Routing(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), torch.zeros(0))
    y, _ = experts(torch.zeros(num_tokens, 3, 7), sort_by_expert(nothing, 2))
    assert y.equal(torch.zeros(num_tokens, 8, 7))
    y.sum().backward()
    assert all((parameter.grad == 0).all() for parameter in experts.parameters())


def test_another_shape_than_was_said_is_refused():
    dispatch = sort_by_expert(edges(), 4)
    modules = [nn.Linear(DIM, 5).double() for _ in range(4)]
    with pytest.raises(
        ValueError, match=r"^out_shape: rows must become \(2, 3\), got \(2, 5\); pass out_shape to ModuleExperts$"
    ):
        ModuleExperts(modules)(numbers(50, 4, DIM), dispatch)
    assert ModuleExperts(modules, (5,))(numbers(50, 4, DIM), dispatch)[0].shape == (4, 5)
    experts = ModuleExpertsConfig(make=lambda dim: nn.Linear(dim, 5)).build(DIM, 4, 5).double()
    assert experts(numbers(50, 4, DIM), dispatch)[0].shape == (4, 5)


def test_vectors_are_no_sequences():
    with pytest.raises(
        ValueError, match=r"^x: items must have 2 axes, as out_shape=\(None, 3\), got shape \(4, 3\); set item_dims"
    ):
        LSTMExpertsConfig(hidden=2).build(DIM, 4)(torch.zeros(4, DIM), sort_by_expert(edges(), 4))


@pytest.mark.parametrize("experts", [GLUExpertsConfig(hidden=2), MLPExpertsConfig(hidden=2), ConstantExpertsConfig()])
@pytest.mark.parametrize("num_items", [1, 2])
def test_sequences_are_no_vectors(experts, num_items):
    moe = MoEConfig(num_experts=3, experts=experts, item_dims=2).build(DIM)
    with (
        torch.no_grad(),
        pytest.raises(ValueError, match=r"^x: must be vectors \(T, D\) .* got shape \(\d, 4, 3\); set"),
    ):
        moe(torch.zeros(num_items, LENGTH, DIM))


def test_a_lone_item_of_more_axes_may_be_copied():
    moe, x = MoEConfig(num_experts=3, experts=CopyExpertsConfig(), item_dims=2).build(DIM), torch.randn(1, LENGTH, DIM)
    with torch.no_grad():
        same(moe(x)[0], x, tolerance=1e-6)


def test_a_module_that_returns_something_else_is_refused():
    experts = ModuleExperts([nn.LSTM(DIM, DIM) for _ in range(4)])
    with pytest.raises(TypeError, match=r"^modules: must return y or \(y, routing\), got tuple; wrap the module$"):
        experts(torch.zeros(4, LENGTH, DIM), sort_by_expert(edges(), 4))


# --- routing of items ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "axis", "means"),
    [
        ((LENGTH, DIM), -1, lambda x: sum(x[s] for s in range(LENGTH)) / LENGTH),
        ((LENGTH, DIM), 1, lambda x: sum(x[s] for s in range(LENGTH)) / LENGTH),
        ((DIM, 2, 5), 0, lambda x: torch.stack([x[c].flatten().sum() / 10 for c in range(DIM)])),
        ((DIM, 2, 5), -3, lambda x: torch.stack([x[c].flatten().sum() / 10 for c in range(DIM)])),
    ],
)
def test_an_item_is_routed_by_its_mean(shape, axis, means):
    router = TopKRouterConfig(k=2).build(DIM, 5).double()
    x = numbers(50, 6, *shape)
    routing, expected = PooledRouter(router, axis)(x), router(torch.stack([means(item) for item in x]))
    assert routing.expert_N.equal(expected.expert_N)
    same(routing.logits_TE, expected.logits_TE)
    same(routing.weight_N, expected.weight_N)


def test_a_router_of_items_is_that_of_vectors_in_all_else():
    inside = TopKRouterConfig(k=2, selection_bias=SelectionBiasConfig()).build(DIM, 5)
    router = PooledRouter(inside)
    routing = router(torch.randn(6, LENGTH, DIM, dtype=torch.bfloat16))
    assert routing.logits_TE.dtype == torch.float32
    assert router.num_experts == 5
    assert not router.causal
    assert router.statistic(routing).equal(inside.statistic(routing))
    router.update(torch.tensor([9, 0, 0, 0, 0]))
    assert inside.selection_bias.bias_E[0] < 0 < inside.selection_bias.bias_E[1]
    with pytest.raises(ValueError, match=r"^x: items must have two axes or more, got shape \(6, 3\); set item_dims"):
        router(torch.randn(6, DIM))


def test_a_layer_of_lstms_by_its_config():
    config = MoEConfig(num_experts=4, experts=LSTMExpertsConfig(hidden=2), item_dims=2)
    assert from_json(MoEConfig, to_json(config)) == config
    moe, x = filled(config.build(DIM, 5)), numbers(50, 2, 3, LENGTH, DIM)

    y, routing = moe(x)

    items = x.flatten(0, 1)
    means_TD = torch.stack([item.sum(0) / LENGTH for item in items])
    same(routing.logits_TE, means_TD @ moe.router.router.weight_ED.T)
    edges = []
    for t, chosen in enumerate(routing.expert_N.view(-1, 2).tolist()):
        weights = references.weights("softmax_topk", True, routing.logits_TE[t], chosen)
        edges += [(t, e, weight) for e, weight in zip(chosen, weights)]
    same(y.flatten(0, 1), loops.weighted_sums(items, edges, [lstm_of(expert) for expert in moe.experts.experts]))
    assert y.shape == (2, 3, LENGTH, 5)
    assert moe(x[0, 0])[0].shape == (LENGTH, 5)


def test_a_layer_of_convolutions_over_images():
    router = PooledRouter(TopKRouterConfig(k=1, normalize=False).build(3, 2), feature_axis=0)
    moe = filled(MoE(router, ModuleExperts([nn.Conv2d(3, 3, 3, padding=1) for _ in range(2)]), item_dims=3))
    x = numbers(50, 5, 3, 6, 6)
    y, routing = moe(x)
    for t, image in enumerate(x):
        same(y[t], routing.weight_N[t] * moe.experts.experts[routing.expert_N[t]](image))
    assert len(set(routing.expert_N.tolist())) == 2


def test_lstms_run_in_bfloat16_by_cast_and_by_autocast():
    moe, x = MoEConfig(num_experts=4, experts=LSTMExpertsConfig(hidden=8), item_dims=2).build(8), torch.randn(3, 5, 8)
    expected = moe(x)[0].detach()
    with torch.autocast("cpu", torch.bfloat16):
        y, routing = moe(x)
    same(y.detach().float(), expected, tolerance=0.05)
    assert routing.logits_TE.dtype == torch.float32
    y.float().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in moe.parameters())
    assert moe.bfloat16()(x.bfloat16())[0].dtype == torch.bfloat16
