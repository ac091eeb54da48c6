"""Balance losses against loops over tokens, at the values the papers state, and in parts of a batch."""

import math

import pytest
import references
import torch
from cases import GATES, numbers, same
from hypothesis import given
from hypothesis import strategies as st

from sparsemix import (
    Routing,
    TokenInfo,
    TopKRouterConfig,
    balance_loss,
    bias_step,
    importance_loss,
    load,
    load_loss,
    switch_loss,
    z_loss,
)
from sparsemix.balance import expected_load, importance

DIM = 6


def routed(num_tokens: int, num_experts: int, info: TokenInfo | None = None, seed: int = 0, **fields):
    """A routing in float64 with logits of size 1, and the router's parameters."""
    router = TopKRouterConfig(**fields).build(DIM, num_experts).double()
    with torch.no_grad():
        for i, parameter in enumerate(router.parameters()):
            parameter.copy_(numbers(seed + i, *parameter.shape))
    return router(numbers(seed + 9, num_tokens, DIM), info), list(router.parameters())


def choices_of(routing: Routing) -> list[list[int]]:
    return routing.expert_N.view(-1, routing.edges_per_token).tolist()


def chosen(expert: list[int], probs: list[list[float]], **fields) -> Routing:
    """One choice a token."""
    probs_TE = torch.tensor(probs, dtype=torch.float64).requires_grad_()
    expert_N = torch.tensor(expert)
    weight_N = probs_TE.gather(1, expert_N[:, None])[:, 0]
    token_N = torch.arange(len(expert))
    return Routing(
        token_N, expert_N, weight_N, probs_TE=probs_TE, logits_TE=probs_TE.log(), edges_per_token=1, **fields
    )


# --- against a loop --------------------------------------------------------------------------------------------------


@given(
    st.integers(0, 7), st.integers(2, 6), st.sampled_from(GATES), st.booleans(), st.sampled_from([None, 0.3]), st.data()
)
def test_values_and_gradients_are_those_of_a_loop(num_tokens, num_experts, gate, noise, capacity_factor, data):
    k = data.draw(st.integers(2, num_experts))
    valid = data.draw(st.none() | st.lists(st.booleans(), min_size=num_tokens, max_size=num_tokens))
    info = None if valid is None else TokenInfo(valid_T=torch.tensor(valid, dtype=torch.bool))
    routing, parameters = routed(
        num_tokens, num_experts, info, k=k, gate=gate, noise=noise, capacity_factor=capacity_factor
    )
    valid = [True] * num_tokens if valid is None else valid
    choices = choices_of(routing)
    weights = routing.weight_N.view(num_tokens, k)

    def against(actual, expected, what):
        same(actual, expected, what)
        got = torch.autograd.grad(actual, parameters, retain_graph=True, allow_unused=True)
        want = torch.autograd.grad(expected, parameters, retain_graph=True, allow_unused=True)
        for one, other in zip(got, want):
            assert (one is None) == (other is None)
            if one is not None:
                same(one, other, f"gradient of {what}")

    if not any(valid):
        losses = [switch_loss(routing), z_loss(routing), importance_loss(routing)]
        losses += [load_loss(routing)] if noise else []
        assert [loss.item() for loss in losses] == [0.0] * len(losses)
        for loss in (loss for loss in losses if loss.requires_grad):
            grads = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
            assert all(grad is None or (grad == 0).all() for grad in grads)
        return
    against(switch_loss(routing), references.switch_loss(routing.probs_TE, choices, valid), "switch")
    against(z_loss(routing), references.z_loss(routing.logits_TE, valid), "z")
    against(importance_loss(routing), references.importance_loss(choices, weights, num_experts, valid), "importance")
    if noise and k < num_experts:
        expected = references.cv_squared(references.mean_of_valid(list(routing.load_TE), valid))
        against(load_loss(routing), expected, "load")


# --- stated values ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_experts", [2, 4, 64])
@pytest.mark.parametrize("k", [1, 2])
def test_switch_loss_of_a_uniform_load_is_one(num_experts, k):
    expert_N = torch.arange(num_experts * k) % num_experts
    probs_TE = torch.full((num_experts, num_experts), 1 / num_experts)
    token_N = torch.arange(num_experts).repeat_interleave(k)
    routing = Routing(token_N, expert_N, torch.ones(len(expert_N)), probs_TE=probs_TE, edges_per_token=k)
    assert float(switch_loss(routing)) == pytest.approx(1)


@pytest.mark.parametrize("num_experts", [2, 4, 64])
def test_switch_loss_of_a_collapse_is_the_number_of_experts(num_experts):
    routing = chosen([0, 0, 0], [[1.0] + [0.0] * (num_experts - 1)] * 3)
    assert switch_loss(routing).item() == pytest.approx(num_experts)


def test_switch_loss_can_fall_below_one():
    """60% of the tokens with p = (.51, .49), 40% with p = (0, 1): f = (.6, .4), P = (.306, .694)."""
    routing = chosen([0] * 6 + [1] * 4, [[0.51, 0.49]] * 6 + [[0.0, 1.0]] * 4)
    assert switch_loss(routing).item() == pytest.approx(2 * (0.6 * 0.306 + 0.4 * 0.694))
    assert switch_loss(routing).item() == pytest.approx(0.922, abs=1e-3)


def test_switch_loss_counts_before_capacity_dropping():
    """Counting live edges only would make a collapsed router look better than a balanced one: 0.78 for 2.95."""
    probs = [[0.7375, 0.0875, 0.0875, 0.0875]] * 16
    collapsed = chosen([0] * 16, probs, live_N=torch.arange(16) < 4)
    assert switch_loss(collapsed).item() == pytest.approx(2.95)
    assert importance_loss(collapsed).item() == pytest.approx(3.0)  # all weight on one of four
    assert load(collapsed, 4).tolist() == [16, 0, 0, 0]


def test_switch_loss_holds_the_shares_constant():
    """dL/dp_ti = E f_i / T."""
    routing = chosen([0, 0, 2], [[0.5, 0.2, 0.3], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8]])
    (grad,) = torch.autograd.grad(switch_loss(routing), routing.probs_TE)
    same(grad, torch.tensor([[2 / 3, 0, 1 / 3]], dtype=torch.float64).expand(3, 3))


@pytest.mark.parametrize(("num_experts", "value"), [(4, 1.92181), (8, 4.32408), (64, 17.2963)])
def test_z_loss_of_zero_logits(num_experts, value):
    routing = Routing(
        *[torch.zeros(0)] * 3, logits_TE=torch.zeros(5, num_experts), probs_TE=torch.zeros(5, num_experts)
    )
    assert z_loss(routing).item() == pytest.approx(math.log(num_experts) ** 2)
    assert z_loss(routing).item() == pytest.approx(value, rel=1e-5)


def test_z_loss_gradient():
    """dL/dz_ti = (2 / T) lse_t p_ti."""
    logits_TE = numbers(0, 5, 4).requires_grad_()
    routing = Routing(*[torch.zeros(0)] * 3, logits_TE=logits_TE, probs_TE=logits_TE.softmax(-1))
    (grad,) = torch.autograd.grad(z_loss(routing), logits_TE)
    same(grad, (2 / 5 * logits_TE.logsumexp(-1, keepdim=True) * logits_TE.softmax(-1)).detach())


@pytest.mark.parametrize("scale", [1.0, 1e-8, 1e8])
def test_importance_is_the_population_cv_squared_whatever_its_scale(scale):
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64) * scale
    routing = Routing(torch.arange(4), torch.arange(4), weights, probs_TE=torch.zeros(4, 4))
    assert importance_loss(routing).item() == pytest.approx(0.2, rel=1e-12)  # unbiased would be 0.2667


def test_load_loss_is_cv_squared_of_the_expected_load():
    routing = Routing(*[torch.zeros(0)] * 3, load_TE=torch.tensor([[0.1, 0.2, 0.3, 0.4]]), probs_TE=torch.zeros(1, 4))
    assert load_loss(routing).item() == pytest.approx(0.2)


def test_a_missing_field_is_named():
    routing, _ = routed(5, 4)
    with pytest.raises(ValueError, match=r"^load_loss: needs routing.load_TE, got None; use a router that gives it"):
        load_loss(routing)
    for loss, field in ((switch_loss, "probs_TE"), (z_loss, "logits_TE"), (importance_loss, "probs_TE")):
        with pytest.raises(ValueError, match=f"needs routing.{field}"):
            loss(routing._replace(**{field: None}))


# --- padding ---------------------------------------------------------------------------------------------------------


def test_padding_changes_no_loss_and_no_gradient():
    router = TopKRouterConfig(k=2).build(DIM, 4).double()
    x_TD, pad_TD = numbers(1, 5, DIM), 50 * numbers(2, 3, DIM)
    losses = []
    for batch, info in (
        (x_TD, None),
        (torch.cat([x_TD, pad_TD]), TokenInfo(valid_T=torch.arange(8) < 5)),
    ):
        routing = router(batch, info)
        loss = balance_loss(routing, importance=0.1)
        losses.append([loss, *torch.autograd.grad(loss, list(router.parameters()))])
        assert load(routing, 4).sum() == 10
    for alone, padded in zip(*losses):
        same(padded, alone)


# --- a batch in parts ------------------------------------------------------------------------------------------------


@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=4),
    st.integers(2, 6),
    st.booleans(),
    st.sampled_from(GATES),
    st.data(),
)
def test_parts_that_know_the_whole_add_up_to_it_exactly(sizes, num_experts, padded, gate, data):
    """Switch, importance and load losses of micro-batches, given the whole batch's totals: value and gradient."""
    k = data.draw(st.integers(2, num_experts))
    num_tokens = sum(sizes)
    valid_T = torch.ones(num_tokens, dtype=torch.bool)
    if padded:
        valid_T[numbers(3, num_tokens) > 0.8] = False
        valid_T[0] = True
    whole, parameters = routed(num_tokens, num_experts, TokenInfo(valid_T=valid_T), k=k, gate=gate, noise=True)

    parts = []  # the very same routing, cut, because noise would be drawn anew
    for start, size in zip(torch.tensor([0, *sizes]).cumsum(0).tolist(), sizes):
        rows, edges = slice(start, start + size), slice(start * k, (start + size) * k)
        parts.append(
            whole._replace(
                token_N=whole.token_N[edges] - start,
                expert_N=whole.expert_N[edges],
                weight_N=whole.weight_N[edges],
                live_N=whole.live_N[edges],
                logits_TE=whole.logits_TE[rows],
                probs_TE=whole.probs_TE[rows],
                load_TE=whole.load_TE[rows],
                info=TokenInfo(valid_T=valid_T[rows]),
            )
        )
    share = [part.info.valid_T.sum() / valid_T.sum().double() for part in parts]
    load_E = sum(load(part, num_experts) for part in parts)
    importance_E = sum(s * importance(part, num_experts) for s, part in zip(share, parts)).detach()
    expected_E = sum(s * expected_load(part) for s, part in zip(share, parts)).detach()

    for loss, total_E in ((switch_loss, load_E), (importance_loss, importance_E), (load_loss, expected_E)):
        exact = loss(whole)
        summed = sum(s * loss(part, total_E) for s, part in zip(share, parts))
        same(summed, exact, loss.__name__)
        if not exact.requires_grad:  # every expert is always selected: the load is a constant
            assert k == num_experts
            continue
        for got, want in zip(
            torch.autograd.grad(summed, parameters, retain_graph=True, allow_unused=True),
            torch.autograd.grad(exact, parameters, retain_graph=True, allow_unused=True),
        ):
            assert (got is None) == (want is None)
            if got is not None:
                same(got, want, f"gradient of {loss.__name__}")


def test_two_halves_each_collapsed_to_another_expert_are_balanced_as_a_whole():
    halves = [chosen([0] * 4, [[1.0, 0.0]] * 4), chosen([1] * 4, [[0.0, 1.0]] * 4)]
    load_E = sum(load(half, 2) for half in halves)
    assert [switch_loss(half).item() for half in halves] == [2, 2]
    assert sum(switch_loss(half, load_E).item() for half in halves) / 2 == 1


# --- the sum ---------------------------------------------------------------------------------------------------------


def test_balance_loss_is_the_weighted_sum_over_layers_and_over_mixtures_inside():
    first, parameters = routed(5, 4)
    second, _ = routed(7, 3, seed=20)
    inner, _ = routed(4, 2, seed=40)
    nested = second._replace(inner=(inner,))
    expected = sum(0.01 * switch_loss(r) + 0.001 * z_loss(r) for r in (first, second, inner))
    same(balance_loss([first, nested]), expected)
    same(balance_loss((first,)), balance_loss(first))
    assert torch.autograd.grad(balance_loss(first), parameters)[0].abs().sum() > 0


def test_balance_loss_takes_coefficients_and_leaves_out_what_has_none():
    routing, _ = routed(5, 4, noise=True)
    quiet = routing._replace(load_TE=None, probs_TE=None)
    same(balance_loss(quiet, switch=0, z=0.5), 0.5 * z_loss(quiet))
    expected = switch_loss(routing) + 2 * z_loss(routing) + 3 * importance_loss(routing) + 4 * load_loss(routing)
    same(balance_loss(routing, switch=1, z=2, importance=3, load=4), expected)


@pytest.mark.parametrize("routings", [[], None])
def test_balance_loss_of_nothing_is_refused(routings):
    given = [routed(5, 4)[0]] if routings is None else routings
    coefficients = {"switch": 0, "z": 0} if routings is None else {}
    with pytest.raises(ValueError, match=r"^balance_loss: needs a routing and a coefficient above 0, got 0 terms"):
        balance_loss(given, **coefficients)


# --- selection bias --------------------------------------------------------------------------------------------------


def test_bias_step_lowers_the_overloaded_raises_the_idle_and_leaves_the_rest():
    bias_E, load_E = torch.zeros(4), torch.tensor([9, 5, 5, 1])
    assert bias_step(bias_E, load_E, 0.001).tolist() == pytest.approx([-0.001, 0, 0, 0.001])
    assert bias_E.tolist() == [0] * 4  # pure


@pytest.mark.parametrize("count", [0, 7, 5_000_001, 2**40 + 1])
def test_bias_step_of_a_balanced_load_is_none_however_large_the_batch(count):
    bias_E = torch.randn(7)
    assert bias_step(bias_E, torch.full((7,), count), 0.001).equal(bias_E)


def test_bias_step_sees_a_difference_of_one_in_a_large_batch():
    load_E = torch.full((4,), 2**30)
    load_E[0] += 1
    assert bias_step(torch.zeros(4), load_E, 1.0).tolist() == [-1, 1, 1, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bias_step_keeps_the_dtype_and_takes_averaged_loads(dtype):
    stepped = bias_step(torch.zeros(2, dtype=dtype), torch.tensor([1.5, 0.5]), 0.001)
    same(stepped, torch.tensor([-0.001, 0.001], dtype=dtype), tolerance=1e-15)
