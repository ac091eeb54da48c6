"""Sinkhorn routing: a plan with even columns in training, plain top-k in evaluation, weights of the logits."""

import pytest
import torch
from cases import numbers, same
from hypothesis import given, settings
from hypothesis import strategies as st
from references import assignment
from references.edges import ranking
from routers.examples import DIM, built, same_edges, told

from sparsemix import load
from sparsemix.routers import SinkhornRouterConfig
from sparsemix.routers.sinkhorn import log_factor


@settings(max_examples=50)
@given(st.integers(2, 8), st.integers(1, 5), st.integers(0, 9), st.data())
def test_in_training_edges_are_the_best_of_the_plan_weighted_by_the_logits(num_tokens, num_experts, seed, data):
    k = data.draw(st.integers(1, num_experts))
    config = SinkhornRouterConfig(k=k, tolerance=1e-9, max_rounds=10_000)
    router, x_TD = told(config, numbers(seed, num_tokens, num_experts))
    plan_TE = assignment.sinkhorn_plan(x_TD, tolerance=1e-9, epsilon=0.0)
    choices = [ranking(plan_E)[:k] for plan_E in plan_TE]
    same_edges(router(x_TD), assignment.activated(x_TD, choices, k), x_TD)


@given(st.integers(0, 8), st.integers(1, 5), st.data())
def test_in_evaluation_edges_are_the_best_of_the_logits(num_tokens, num_experts, data):
    k = data.draw(st.integers(1, num_experts))
    router, x_TD = told(SinkhornRouterConfig(k=k), numbers(1, num_tokens, num_experts))
    same_edges(router.eval()(x_TD), assignment.sinkhorn_greedy(x_TD, k), x_TD)


@pytest.mark.parametrize("scale", [0.1, 1.0, 4.0])
def test_rows_of_the_plan_sum_to_1_over_t_and_columns_to_1_over_e(scale):
    logits_TE = scale * (numbers(1, 60, 5) + numbers(2, 5))
    log_factor_E = log_factor(logits_TE, tolerance=1e-4, max_rounds=1000)
    plan_TE = (logits_TE + log_factor_E).softmax(-1) / 60
    same(plan_TE.sum(1), torch.full((60,), 1 / 60, dtype=torch.float64))
    same(plan_TE.sum(0), torch.full((5,), 1 / 5, dtype=torch.float64), tolerance=1e-3)
    expected_TE = assignment.sinkhorn_plan(logits_TE)
    same(plan_TE, expected_TE, tolerance=1e-5)


def test_a_worked_example():
    """exp(z) = [[8, 2], [2, 2]] scaled to even rows and columns is [[p, q], [q, p]] with (p / q)^2 = 8 * 2 / (2 * 2).

    So p = 1/3 and q = 1/6 (they sum to 1/2): token 0 goes to expert 0 and token 1, whose logits are equal, to expert 1.
    """
    logits_TE = torch.tensor([[8.0, 2.0], [2.0, 2.0]]).double().log()
    log_factor_E = log_factor(logits_TE, tolerance=1e-12, max_rounds=1000)
    plan_TE = (logits_TE + log_factor_E).softmax(-1) / 2
    same(plan_TE, torch.tensor([[1 / 3, 1 / 6], [1 / 6, 1 / 3]], dtype=torch.float64))
    router, x_TD = told(SinkhornRouterConfig(), logits_TE)
    routing = router(x_TD)
    assert routing.expert_N.tolist() == [0, 1]
    same(routing.weight_N, torch.tensor([8 / 9, 2 / 3], dtype=torch.float64))  # sigmoid(ln a) = a / (1 + a)


def test_training_spreads_a_skewed_load_that_evaluation_leaves():
    router = built(SinkhornRouterConfig(), 8)
    x_TD = 0.3 * numbers(1, 400, DIM) + numbers(2, DIM)
    training, evaluation = (load(router.train(mode)(x_TD), 8) for mode in (True, False))
    assert evaluation.max() > 200
    assert training.max() < 75


def test_a_constant_on_an_experts_logits_changes_no_choice_in_training():
    logits_TE = numbers(1, 40, 5)
    choices = []
    for offset_E in (torch.zeros(5), 3 * numbers(2, 5)):
        router, x_TD = told(SinkhornRouterConfig(tolerance=1e-9, max_rounds=1000), logits_TE + offset_E)
        choices.append(router(x_TD).expert_N)
    assert choices[0].equal(choices[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_logit_is_too_large(dtype):
    """Of logits of 1000 the power overflows; the plan is then nearly an assignment."""
    router, _ = told(SinkhornRouterConfig(max_rounds=500), torch.zeros(4, 2))
    x_TD = torch.tensor([[1000.0, 900.0], [1000.0, 0.0], [1000.0, 950.0], [1000.0, -500.0]], dtype=dtype)
    routing = router.to(dtype)(x_TD)
    assert routing.expert_N.tolist() == [1, 0, 1, 0]
    assert routing.weight_N.isfinite().all()


def test_the_plan_carries_no_gradient():
    router, x_TD = told(SinkhornRouterConfig(), numbers(1, 6, 3))
    routing = router(x_TD)
    routing.weight_N.sum().backward()
    chosen_TE = torch.nn.functional.one_hot(routing.expert_N, 3).bool()
    assert (x_TD.grad[chosen_TE] > 0).all()
    assert (x_TD.grad[~chosen_TE] == 0).all()


def test_the_plan_is_taken_as_it_is_after_the_last_round():
    logits_TE = numbers(1, 30, 4) + 2 * numbers(2, 4)
    first, second = (log_factor(logits_TE, tolerance=1e-12, max_rounds=rounds) for rounds in (1, 2))
    same(first, -(logits_TE.softmax(-1).mean(0) * 4).log())
    assert not torch.allclose(first, second)


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match=r"^k: must be in 1..num_experts, got k=3 with num_experts=2; lower k"):
        SinkhornRouterConfig(k=3).build(DIM, 2)
    with pytest.raises(ValueError, match=r"tolerance: Input should be greater than 0"):
        SinkhornRouterConfig(tolerance=0.0)
