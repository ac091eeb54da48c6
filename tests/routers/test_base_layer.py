"""BASE: the balanced assignment in training, each token's best expert in evaluation."""

import pytest
import torch
from cases import numbers, same
from hypothesis import given, settings
from hypothesis import strategies as st
from references import assignment
from routers.examples import DIM, built, live_edges, same_edges, told

from sparsemix import GLUExpertsConfig, MoEConfig, TokenInfo
from sparsemix.routers import BASERouterConfig


@settings(max_examples=40)
@given(st.sampled_from([(0, 3), (2, 1), (3, 3), (4, 2), (6, 2), (6, 3), (8, 2)]), st.integers(0, 9))
def test_in_training_edges_are_the_optimal_balanced_assignment_weighted_by_a_sigmoid(size, seed):
    router, x_TD = told(BASERouterConfig(), numbers(seed, *size))
    routing = router(x_TD)
    same_edges(routing, assignment.base(x_TD), x_TD)
    assert routing.edges_per_token == 1
    same(routing.logits_TE, x_TD)


@given(st.integers(0, 9), st.integers(1, 6))
def test_in_evaluation_each_token_goes_to_its_best_expert(num_tokens, num_experts):
    router, x_TD = told(BASERouterConfig(), numbers(1, num_tokens, num_experts))
    same_edges(router.eval()(x_TD), assignment.base_greedy(x_TD), x_TD)


def test_exactly_t_over_e_tokens_each_however_tokens_agree():
    router = built(BASERouterConfig(), 8)
    x_TD = 0.1 * numbers(1, 512, DIM) + numbers(2, DIM)
    assert torch.bincount(router(x_TD).expert_N, minlength=8).tolist() == [64] * 8
    greedy_E = torch.bincount(router.eval()(x_TD).expert_N, minlength=8)
    assert greedy_E.max() > 128


def test_padding_takes_no_place():
    router = built(BASERouterConfig(), 4)
    valid_T = torch.arange(60) % 3 != 0
    edges = live_edges(router(numbers(1, 60, DIM), TokenInfo(valid_T=valid_T)))
    assert sorted(t for t, _ in edges) == valid_T.nonzero().flatten().tolist()
    assert [sum(e == expert for _, e in edges) for expert in range(4)] == [10] * 4


def test_a_worked_example():
    """Both tokens want expert 0, the second one more; sigmoid(ln 3) = 3/4, sigmoid(-ln 3) = 1/4."""
    logits_TE = torch.tensor([[3.0, 1 / 3], [9.0, 1 / 9]], dtype=torch.float64).log()
    router, x_TD = told(BASERouterConfig(), logits_TE)
    training, evaluation = (router.train(mode)(x_TD) for mode in (True, False))
    assert training.expert_N.tolist() == [1, 0]
    same(training.weight_N, torch.tensor([0.25, 0.9], dtype=torch.float64))
    assert evaluation.expert_N.tolist() == [0, 0]
    same(evaluation.weight_N, torch.tensor([0.75, 0.9], dtype=torch.float64))


def test_a_centroid_learns_through_the_weight_alone():
    router, x_TD = built(BASERouterConfig(), 3), numbers(1, 6, DIM)
    routing = router(x_TD)
    routing.weight_N.sum().backward()
    score_T = (x_TD * router.weight_ED.detach()[routing.expert_N]).sum(-1)
    slope_T = torch.sigmoid(score_T) * (1 - torch.sigmoid(score_T))
    expected_ED = torch.zeros(3, DIM).double().index_add_(0, routing.expert_N, slope_T[:, None] * x_TD)
    same(router.weight_ED.grad, expected_ED)


@pytest.mark.parametrize("num_experts", [3, DIM, 2 * DIM])
def test_centroids_begin_orthogonal_with_gain_one_tenth(num_experts):
    weight_ED = BASERouterConfig().build(DIM, num_experts).weight_ED.detach()
    product = weight_ED @ weight_ED.T if num_experts <= DIM else weight_ED.T @ weight_ED
    same(product, 0.01 * torch.eye(len(product)), tolerance=1e-7)


def test_training_and_evaluation_differ_in_a_layer_only_where_loads_are_uneven():
    moe = MoEConfig(num_experts=2, router=BASERouterConfig(), experts=GLUExpertsConfig(hidden=2)).build(2)
    with torch.no_grad():
        moe.router.weight_ED.copy_(torch.eye(2))
    even, uneven = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [2.0, 1.0]])
    for x_TD, equal in ((even, True), (uneven, False)):
        training, evaluation = (moe.train(mode)(x_TD)[0] for mode in (True, False))
        assert torch.allclose(training, evaluation) == equal


def test_scores_that_are_not_finite_still_leave_loads_equal():
    router = built(BASERouterConfig(), 4)
    x_TD = numbers(1, 12, DIM)
    x_TD[3] = torch.nan
    assert torch.bincount(router(x_TD).expert_N, minlength=4).tolist() == [3] * 4
