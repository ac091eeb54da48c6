"""Assignments of the whole batch: BASE against greedy choice, Sinkhorn's plan, and tables of hash layers."""

import math
from collections import Counter
from itertools import combinations

import pytest
import torch
from cases import numbers, same
from references.assignment import (
    balanced_assignments,
    balanced_table,
    base,
    base_greedy,
    best_assignment,
    hashed,
    random_table,
    sinkhorn,
    sinkhorn_greedy,
    sinkhorn_plan,
)
from references.edges import choices_of
from worked_vectors.values import matrix, plain, rounded


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


# --- BASE -------------------------------------------------------------------------------------------------------------


def test_the_best_balanced_assignment_is_not_the_greedy_one():
    scores_TE = matrix([[0.9, 0.8], [0.9, 0.1]])  # .8 + .9 = 1.7, while both to expert 0 would be unbalanced
    assert plain(base(scores_TE)) == rounded((0, 1, sigmoid(0.8)), (1, 0, sigmoid(0.9)))
    assert plain(base_greedy(scores_TE)) == rounded((0, 0, sigmoid(0.9)), (1, 0, sigmoid(0.9)))


def test_every_balanced_assignment_is_tried():
    assert len(list(balanced_assignments(6, (2, 2, 2)))) == 90  # 6! / 2!^3
    assert len(set(balanced_assignments(6, (2, 2, 2)))) == 90


@pytest.mark.parametrize("seed", range(5))
def test_each_expert_gets_its_share_and_no_exchange_of_two_tokens_is_better(seed):
    scores_TE = numbers(seed, 6, 3)
    found = best_assignment(scores_TE)
    assert Counter(found) == {0: 2, 1: 2, 2: 2}
    for t, s in combinations(range(6), 2):
        here = scores_TE[t, found[t]] + scores_TE[s, found[s]]
        assert scores_TE[t, found[s]] + scores_TE[s, found[t]] <= here + 1e-12


def test_the_gradient_of_base_is_through_the_chosen_score_alone():
    scores_TE = matrix([[0.0, 0.0], [1.0, 0.0]]).requires_grad_()  # token 1 to expert 0, token 0 to expert 1
    (grad_TE,) = torch.autograd.grad(base(scores_TE)[0].weight, scores_TE)
    same(grad_TE, matrix([[0, 0.25], [0, 0]]))


# --- Sinkhorn ---------------------------------------------------------------------------------------------------------


def test_the_plan_of_two_by_two_is_known():
    # x^2 / (1 / 2 - x)^2 = 9 1 / (1 1): x = 3 / 8
    plan_TE = sinkhorn_plan(matrix([[9, 1], [1, 1]]).log(), tolerance=1e-12, epsilon=0.0)
    same(plan_TE, matrix([[0.375, 0.125], [0.125, 0.375]]), tolerance=1e-9)


def test_the_marginals_of_the_plan_are_uniform():
    plan_TE = sinkhorn_plan(numbers(0, 12, 4))
    same(plan_TE.sum(0), torch.full((4,), 1 / 4).double(), "columns", 1e-3)
    same(plan_TE.sum(1), torch.full((12,), 1 / 12).double(), "rows", 1e-3)


def test_a_constant_on_an_experts_logits_moves_evaluation_but_not_training():
    logits_TE = numbers(0, 12, 4)
    shifted_TE = logits_TE + matrix([5, 0, 0, 0])
    trained = [choices_of(sinkhorn(z, 1, tolerance=1e-9, epsilon=0.0), 12) for z in (logits_TE, shifted_TE)]
    assert trained[0] == trained[1]
    assert choices_of(sinkhorn_greedy(shifted_TE, 1), 12) == [[0]] * 12


def test_weights_are_sigmoids_of_one_choice_and_a_softmax_over_all_for_more():
    logits_TE = numbers(0, 4, 3)
    for route in (sinkhorn, sinkhorn_greedy):
        for t, e, weight in plain(route(logits_TE, 1)):
            assert weight == round(sigmoid(logits_TE[t, e].item()), 9)
        for t, e, weight in plain(route(logits_TE, 2)):
            assert weight == round(logits_TE[t].softmax(-1)[e].item(), 9)


# --- hash layers ------------------------------------------------------------------------------------------------------


def test_an_id_has_the_same_expert_in_every_context():
    assert plain(hashed([2, 0, 2, 1], [1, 0, 3])) == rounded((0, 3, 1), (1, 1, 1), (2, 3, 1), (3, 0, 1))


def test_the_random_table_cuts_the_unit_interval_into_experts():
    assert random_table(torch.tensor([0.0, 0.49, 0.5, 0.99]), 2) == [0, 0, 1, 1]


def test_the_balanced_table_gives_the_next_most_frequent_id_to_the_least_loaded():
    # 5 to 0; 4 to 1; 3 to 1 (7); 2 to 0 (7); 1 to 0 of equals (8); 1 to 1 (8)
    assert balanced_table([1, 5, 3, 2, 4, 1], 2) == [0, 0, 1, 0, 1, 1]


def test_frequencies_that_fit_are_balanced_exactly():
    frequency_V, table = [8, 4, 2, 1, 1], balanced_table([8, 4, 2, 1, 1], 2)
    assert [sum(f for f, e in zip(frequency_V, table) if e == expert) for expert in range(2)] == [8, 8]
