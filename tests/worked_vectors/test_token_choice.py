"""Top-k routers, worked by hand: the gates of the k choices, biases, groups of experts, cosine and residual logits."""

import math

import pytest
import torch
from cases import numbers, same
from references.edges import choices_of
from references.experts import constant
from references.token_choice import (
    biased_top_k,
    cosine_logits,
    even_groups,
    gpt_oss,
    group_limited_sigmoid,
    group_limited_softmax,
    residual_logits,
    softmax_top_k,
    top_k_softmax,
)
from worked_vectors.values import logits_of, logits_of_sigmoid, matrix, plain, rounded

FOUR = [[0.15, 0.5, 0.05, 0.3]]
EIGHT = [[0.30, 0.01, 0.02, 0.20, 0.17, 0.16, 0.10, 0.04]]
"""Four pairs, whose largest are .30 .20 .17 .10 and whose sums are .31 .22 .33 .14."""


def test_the_best_two_of_four():
    logits_TE = logits_of(FOUR)
    assert plain(softmax_top_k(logits_TE, 2, normalize=False)) == rounded((0, 1, 0.5), (0, 3, 0.3))
    assert plain(softmax_top_k(logits_TE, 2, normalize=True)) == rounded((0, 1, 0.5 / 0.8), (0, 3, 0.3 / 0.8))


@pytest.mark.parametrize("k", [1, 3, 5])
def test_softmax_of_the_top_k_is_the_renormalised_top_k_of_the_softmax(k):
    logits_TE = numbers(0, 6, 5)
    assert plain(top_k_softmax(logits_TE, k)) == plain(softmax_top_k(logits_TE, k, normalize=True))
    assert plain(top_k_softmax(logits_TE + 7, k)) == plain(top_k_softmax(logits_TE, k))


def test_ties_go_to_the_lower_index():
    assert choices_of(top_k_softmax(torch.zeros(1, 4).double(), 2), 1) == [[0, 1]]


def test_gpt_oss_adds_a_bias_to_logits_and_so_to_weights():
    # W x = (0, ln 3, 0), with the bias (ln 9, ln 3, 0); 9 / (9 + 3) = .75
    weight_ED, bias_E = matrix([[0, 0], [math.log(3), 0], [0, 0]]), matrix([math.log(9), 0, 0])
    assert plain(gpt_oss(matrix([[1, 5]]), weight_ED, bias_E, 2)) == rounded((0, 0, 0.75), (0, 1, 0.25))


# --- a bias that selects ----------------------------------------------------------------------------------------------


def test_the_bias_selects_and_does_not_weigh():
    # s + b = (.6, .3, .45): experts 0 and 2, whose scores sum to 1, times 2.5
    edges = biased_top_k(matrix([[0.6, 0.5, 0.4]]), matrix([0, -0.2, 0.05]), 2, normalize=True, scale=2.5)
    assert plain(edges) == rounded((0, 0, 1.5), (0, 2, 1.0))


def test_the_multiplicative_bias():
    # s b = (.6, .25, .8)
    edges = biased_top_k(matrix([[0.6, 0.5, 0.4]]), matrix([1, 0.5, 2]), 2, normalize=False, multiplicative=True)
    assert plain(edges) == rounded((0, 2, 0.4), (0, 0, 0.6))


def test_a_constant_on_every_bias_changes_nothing():
    scores_TE, bias_E = torch.sigmoid(numbers(0, 5, 6)), numbers(1, 6)
    assert plain(biased_top_k(scores_TE, bias_E, 3, True)) == plain(biased_top_k(scores_TE, bias_E - 4, 3, True))


# --- groups -----------------------------------------------------------------------------------------------------------


def test_deepseek_v2_keeps_the_groups_with_the_largest_probability():
    edges = group_limited_softmax(logits_of(EIGHT), even_groups(8, 4), top_groups=2, k=3, scale=16)
    assert plain(edges) == rounded((0, 0, 16 * 0.30), (0, 3, 16 * 0.20), (0, 2, 16 * 0.02))


def test_deepseek_v3_keeps_the_groups_with_the_largest_sum_of_two():
    edges = group_limited_sigmoid(logits_of_sigmoid(EIGHT), torch.zeros(8), even_groups(8, 4), 2, 3, scale=2.5)
    assert plain(edges) == rounded(*[(0, e, 2.5 * s / 0.63) for e, s in ((0, 0.30), (4, 0.17), (5, 0.16))])


def test_a_group_of_deepseek_v3_counts_no_more_than_its_two_best():
    # two best .9 against .88; all three .91 against 1.28
    logits_TE = logits_of_sigmoid([[0.5, 0.01, 0.4, 0.44, 0.4, 0.44]])
    assert choices_of(group_limited_sigmoid(logits_TE, torch.zeros(6), even_groups(6, 2), 1, 2), 1) == [[0, 2]]


def test_the_bias_of_deepseek_v3_moves_groups_and_choices_but_not_weights():
    bias_E = torch.zeros(8).double()
    bias_E[2] = 0.5  # sums .31 .72 .33 .14; c_2 = .52
    edges = group_limited_sigmoid(logits_of_sigmoid(EIGHT), bias_E, even_groups(8, 4), top_groups=2, k=3)
    assert plain(edges) == rounded(*[(0, e, s / 0.39) for e, s in ((2, 0.02), (3, 0.20), (4, 0.17))])


def test_masking_with_zero_lets_a_forbidden_expert_beat_an_allowed_one():
    # c = (.5, -.1 | .3, .05): sums .4 and .35, so the first pair is allowed
    logits_TE, bias_E = logits_of_sigmoid([[0.5, 0.1, 0.3, 0.05]]), matrix([0, -0.2, 0, 0])
    groups = even_groups(4, 2)
    assert choices_of(group_limited_sigmoid(logits_TE, bias_E, groups, 1, 2), 1) == [[0, 1]]
    assert choices_of(group_limited_sigmoid(logits_TE, bias_E, groups, 1, 2, masked=0.0), 1) == [[0, 2]]


def test_a_constant_bias_changes_nothing_unless_zero_is_the_mask():
    logits_TE, bias_E, groups = numbers(0, 9, 8), numbers(1, 8), even_groups(8, 4)
    shifted_E = bias_E - 9
    free = plain(group_limited_sigmoid(logits_TE, bias_E, groups, 2, 3))
    assert plain(group_limited_sigmoid(logits_TE, shifted_E, groups, 2, 3)) == free
    assert plain(group_limited_sigmoid(logits_TE, shifted_E, groups, 2, 3, masked=0.0)) != free


@pytest.mark.parametrize("k", [1, 3])
def test_one_group_is_the_plain_top_k(k):
    logits_TE, bias_E, groups = numbers(0, 6, 8), numbers(1, 8), even_groups(8, 1)
    assert plain(group_limited_softmax(logits_TE, groups, 1, k)) == plain(softmax_top_k(logits_TE, k, False))
    expected = biased_top_k(torch.sigmoid(logits_TE), bias_E, k, normalize=True)
    assert plain(group_limited_sigmoid(logits_TE, bias_E, groups, 1, k)) == plain(expected)


def test_choices_lie_in_no_more_groups_than_allowed():
    groups = even_groups(12, 4)
    for edges in (
        group_limited_softmax(numbers(0, 20, 12), groups, 2, 5),
        group_limited_sigmoid(numbers(0, 20, 12), numbers(1, 12), groups, 2, 5),
    ):
        assert max(len({e // 3 for e in chosen}) for chosen in choices_of(edges, 20)) == 2


# --- logits -----------------------------------------------------------------------------------------------------------


def test_cosine_logits():
    x_TD, expert_EA = matrix([[3, 4]]), matrix([[1, 0], [0, 2], [3, 4]])
    eye = torch.eye(2).double()
    same(cosine_logits(x_TD, eye, expert_EA, temperature=0.5), matrix([[0.6 / 0.5, 0.8 / 0.5, 2]]))
    same(cosine_logits(9 * x_TD, eye, 7 * expert_EA, temperature=0.5), matrix([[1.2, 1.6, 2]]))
    same(cosine_logits(x_TD, eye, expert_EA, 1.0, normalize_input=False), matrix([[3, 4, 5]]))


def test_the_gating_residual_adds_the_logits_of_the_layer_before():
    x_TD, carry_EE = matrix([[1, 2]]), matrix([[0, 1], [1, 0]])
    first_TE = residual_logits(x_TD, torch.eye(2).double(), carry_EE, None)
    same(first_TE, x_TD)
    same(residual_logits(x_TD, torch.eye(2).double(), carry_EE, 10 * first_TE), matrix([[21, 12]]))


def test_the_constant_expert_mixes_the_token_and_its_value():
    # logits (ln 3, 0): .75 x + .25 v
    y_D = constant(matrix([1, 0]), matrix([[math.log(3), 0], [0, 0]]), matrix([4, 8]))
    same(y_D, matrix([1.75, 2]))
