"""Different amounts of computation a token, worked by hand: top-p, ReLU, null experts, depth, and Soft MoE."""

import math

import pytest
import torch
from cases import numbers, same
from references.edges import choices_of
from references.layer import mixture
from references.variable import (
    around_block,
    mixture_of_depths,
    null_experts,
    relu,
    soft_moe,
    soft_moe_weights,
    top_p,
)
from worked_vectors.values import logits_of, matrix, plain, rounded

FOUR = [[0.15, 0.5, 0.05, 0.3]]


# --- top-p ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("p", "chosen"),
    [(0.0, [1]), (0.4, [1]), (0.6, [1, 3]), (0.79, [1, 3]), (0.81, [1, 3, 0]), (0.96, [1, 3, 0, 2]), (2, [1, 3, 0, 2])],
)
def test_top_p_includes_the_expert_that_crosses(p, chosen):
    edges = top_p(logits_of(FOUR), p)
    assert plain(edges) == rounded(*[(0, e, FOUR[0][e]) for e in chosen]), "raw weights"


def test_an_even_router_takes_as_many_experts_as_p_asks_for():
    assert len(choices_of(top_p(torch.zeros(1, 8).double(), 0.4), 1)[0]) == 4  # 3 / 8 < .4 < 4 / 8


# --- ReLU -------------------------------------------------------------------------------------------------------------


def test_relu_takes_the_positive_logits_and_perhaps_none():
    assert plain(relu(matrix([[-1, 0, 2, 0.5], [-1, -2, 0, -3]]))) == rounded((0, 2, 2), (0, 3, 0.5))


def test_relu_has_gradient_where_the_logit_is_positive():
    logits_TE = matrix([[-1, 0, 2, 0.5]]).requires_grad_()
    (grad_TE,) = torch.autograd.grad(sum(edge.weight for edge in relu(logits_TE)), logits_TE)
    same(grad_TE, matrix([[0, 0, 1, 1]]))


# --- null experts -----------------------------------------------------------------------------------------------------


def test_weights_sum_to_1_over_the_true_experts():
    edges = null_experts(logits_of(FOUR), 3, nulls=[3])  # chosen 1, 3, 0; .5 and .15 are left
    assert plain(edges) == rounded((0, 1, 0.5 / 0.65), (0, 3, 0), (0, 0, 0.15 / 0.65))


def test_a_token_with_nulls_only_has_output_zero():
    edges = null_experts(logits_of(FOUR), 2, nulls=[1, 3])
    assert choices_of(edges, 1) == [[1, 3]]
    y_TD = mixture(matrix([[1.0, 2.0]]), edges, [lambda x: x] * 4)
    same(y_TD, torch.zeros(1, 2).double())


def test_without_nulls_it_is_the_renormalised_top_k():
    assert plain(null_experts(logits_of(FOUR), 2, nulls=[])) == rounded((0, 1, 0.5 / 0.8), (0, 3, 0.3 / 0.8))


# --- mixture of depths ------------------------------------------------------------------------------------------------


def test_the_block_takes_the_tokens_with_the_largest_logits_and_sees_only_them():
    edges = mixture_of_depths(matrix([1, 3, 2, -1]), 2)
    assert plain(edges) == rounded((1, 0, 3), (2, 0, 2))
    # cumulative sums over the chosen: 10, 110; so 10 + 3 * 10 and 100 + 2 * 110
    y_TD = around_block(matrix([[1], [10], [100], [1000]]), edges, lambda x: x.cumsum(0))
    same(y_TD, matrix([[1], [40], [320], [1000]]))


def test_all_tokens_with_weight_1_are_the_block_as_it_is():
    x_TD = numbers(0, 5, 2)
    same(around_block(x_TD, mixture_of_depths(torch.ones(5).double(), 5), torch.tanh), x_TD + x_TD.tanh())


def test_the_router_of_depths_has_gradient_through_the_product_alone():
    logits_T = matrix([1, 3]).requires_grad_()
    y_TD = around_block(matrix([[5], [7]]), mixture_of_depths(logits_T, 1), lambda x: 2 * x)
    same(torch.autograd.grad(y_TD.sum(), logits_T)[0], matrix([0, 14]))


# --- Soft MoE ---------------------------------------------------------------------------------------------------------


def test_two_tokens_and_two_slots():
    # logits ln 3 on the diagonal: dispatch and combine [[.75, .25], [.25, .75]]; identity experts give their product
    dispatch_TN, combine_TN = soft_moe_weights(
        matrix([[5, 0], [0, 2]]), torch.eye(2).double(), math.log(3), epsilon=0.0
    )
    expected = matrix([[0.75, 0.25], [0.25, 0.75]])
    same(dispatch_TN, expected)
    same(combine_TN, expected)
    y_TD = soft_moe(torch.eye(2).double(), dispatch_TN, combine_TN, [lambda x: x] * 2)
    same(y_TD, matrix([[0.625, 0.375], [0.375, 0.625]]))


def test_dispatch_sums_to_1_over_tokens_and_combine_over_slots():
    dispatch_TN, combine_TN = soft_moe_weights(numbers(0, 5, 3), numbers(1, 3, 4), 1.0)
    same(dispatch_TN.sum(0), torch.ones(4).double())
    same(combine_TN.sum(1), torch.ones(5).double())


def test_a_slot_goes_to_its_expert_as_a_mean_of_tokens_as_they_are():
    # scale 0: each slot holds the mean 3, the experts give 3, 3, 30, 30, and each token their mean
    x_TD = matrix([[1.0], [5.0]])
    weights = soft_moe_weights(x_TD, numbers(0, 1, 4), 0.0)
    same(soft_moe(x_TD, *weights, [lambda x: x, lambda x: 10 * x]), matrix([[16.5], [16.5]]))


def test_the_order_of_tokens_does_not_matter_and_the_length_of_a_token_only_in_its_slot():
    x_TD, phi_DN, order_T = numbers(0, 5, 3), numbers(1, 3, 4), [3, 1, 4, 0, 2]
    experts = [torch.tanh, torch.sin]
    y_TD = soft_moe(x_TD, *soft_moe_weights(x_TD, phi_DN, 2.0), experts)
    moved_TD = soft_moe(x_TD[order_T], *soft_moe_weights(x_TD[order_T], phi_DN, 2.0), experts)
    same(moved_TD, y_TD[order_T])
    for weights, longer in zip(soft_moe_weights(x_TD, phi_DN, 2.0, 0.0), soft_moe_weights(9 * x_TD, phi_DN, 2.0, 0.0)):
        same(weights, longer)


def test_the_small_number_stands_under_the_root():
    # |x| = sqrt(1 + 3) = 2 and |phi| = 2, so the one logit of each token is +-1 / 4; one slot, so combine is 1
    dispatch_TN, combine_TN = soft_moe_weights(matrix([[1], [-1]]), matrix([[1]]), 1.0, epsilon=3.0)
    same(dispatch_TN[0, 0], torch.sigmoid(matrix(0.5)))
    same(combine_TN, torch.ones(2, 1).double())
