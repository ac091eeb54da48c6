"""Balance losses at the values that are known: the switch family, CV^2, z-loss, entropies and penalties."""

import math

import pytest
import torch
from cases import numbers, same
from references.losses import (
    counts,
    cv_squared,
    entropy_loss,
    first_choice_loss,
    gate_importance_loss,
    global_batch_loss,
    gshard_loss,
    hierarchical_importance,
    importance_loss,
    limoe_global_loss,
    limoe_local_loss,
    load_loss,
    null_expert_loss,
    parameter_penalty,
    relu_loss,
    selection_loss,
    switch_loss,
    weighted_loss,
    z_loss,
)
from worked_vectors.values import matrix


def even(num_tokens: int, num_experts: int, k: int) -> tuple[torch.Tensor, list[list[int]], list[bool]]:
    """Uniform probabilities, choices spread evenly, no padding; num_tokens k is a multiple of num_experts."""
    choices = [[(t * k + j) % num_experts for j in range(k)] for t in range(num_tokens)]
    return torch.full((num_tokens, num_experts), 1 / num_experts).double(), choices, [True] * num_tokens


# --- sum_i f_i P_i ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("num_experts", "k"), [(4, 1), (4, 2), (8, 2)])
def test_at_an_even_load_the_sources_differ_by_a_constant(num_experts, k):
    batch = even(8, num_experts, k)
    same(switch_loss(*batch), matrix(1.0))
    same(switch_loss(*batch, per="token"), matrix(float(k)))
    firsts = even(8, num_experts, 1)
    same(first_choice_loss(*firsts), matrix(1.0))
    same(gshard_loss(*firsts), matrix(1 / num_experts**2))


def test_a_collapsed_router_has_the_number_of_experts_as_its_loss():
    probs_TE = matrix([[0, 1, 0, 0]] * 3)
    same(switch_loss(probs_TE, [[1]] * 3, [True] * 3), matrix(4.0))
    same(first_choice_loss(probs_TE, [[1, 2]] * 3, [True] * 3), matrix(4.0))
    same(switch_loss(probs_TE, [[1, 2]] * 3, [True] * 3), matrix(2.0), "half of the choices are second ones")


def test_the_loss_can_be_below_1():
    # f = (.6, .4), P = (.6 * .51, .6 * .49 + .4) = (.306, .694): 2 (.1836 + .2776)
    probs_TE = matrix([[0.51, 0.49]] * 6 + [[0, 1]] * 4)
    same(switch_loss(probs_TE, [[0]] * 6 + [[1]] * 4, [True] * 10), matrix(0.9224))


def test_first_choices_only_or_all():
    probs_TE, choices = matrix([[0.5, 0.3, 0.2], [0.6, 0.1, 0.3]]), [[0, 1], [0, 2]]  # P = (.55, .2, .25)
    same(first_choice_loss(probs_TE, choices, [True, True]), matrix(3 * 0.55))
    same(switch_loss(probs_TE, choices, [True, True]), matrix(3 * (0.5 * 0.55 + 0.25 * 0.2 + 0.25 * 0.25)))


def test_the_gradient_of_the_mean_probability_is_the_share_of_tokens():
    probs_TE = matrix([[0.5, 0.3, 0.2], [0.6, 0.1, 0.3]]).requires_grad_()
    loss = switch_loss(probs_TE, [[0], [2]], [True, True])
    (grad_TE,) = torch.autograd.grad(loss, probs_TE)
    same(grad_TE, matrix([[0.75, 0, 0.75]] * 2))  # E f_i / T


def test_two_micro_batches_that_collapse_differently_are_balanced_together():
    first_TE, second_TE, valid = matrix([[1, 0]] * 3), matrix([[0, 1]] * 3), [True] * 3
    same(switch_loss(first_TE, [[0]] * 3, valid), matrix(2.0))
    same(global_batch_loss(first_TE, valid, [3, 3]), matrix(1.0))
    same(global_batch_loss(second_TE, valid, [3, 3]), matrix(1.0))


def test_the_mean_of_global_batch_losses_is_the_loss_of_the_whole_with_its_gradient():
    probs_TE = numbers(0, 6, 3).softmax(-1).requires_grad_()
    choices, valid = probs_TE.topk(2).indices.tolist(), [True] * 6
    load_E = counts(choices, 3, valid)
    parts = sum(global_batch_loss(probs_TE[rows], [True] * 3, load_E) for rows in (slice(0, 3), slice(3, 6))) / 2
    whole = switch_loss(probs_TE, choices, valid)
    same(parts, whole)
    same(torch.autograd.grad(parts, probs_TE)[0], torch.autograd.grad(whole, probs_TE)[0])


def test_all_nulls_are_one_averaged_bucket():
    # f per token (.5, 0, 1, .5), nulls .75 each: 4 (.5 * .1 + 0 * .2 + .75 * .7)
    probs_TE, choices = matrix([[0.1, 0.2, 0.3, 0.4]] * 2), [[0, 2], [2, 3]]
    loss = null_expert_loss(probs_TE, choices, [2, 3], [True, True], "token")
    same(loss, matrix(4 * (0.05 + 0.75 * 0.7)))
    same(null_expert_loss(probs_TE, choices, [2, 3], [True, True], "choice"), loss / 2)


def test_nulls_are_told_apart_neither_by_value_nor_by_gradient():
    probs_TE = numbers(0, 5, 4).softmax(-1).requires_grad_()
    losses = [null_expert_loss(probs_TE, [[null]] * 5, [2, 3], [True] * 5, "token") for null in (2, 3)]
    same(losses[0], losses[1])
    (grad_TE,) = torch.autograd.grad(losses[0], probs_TE)
    same(grad_TE[:, 2], grad_TE[:, 3])


def test_one_null_is_an_expert_like_the_others():
    probs_TE, choices = numbers(0, 5, 4).softmax(-1), [[0, 3], [1, 3], [2, 1], [3, 0], [0, 1]]
    same(null_expert_loss(probs_TE, choices, [3], [True] * 5, "choice"), switch_loss(probs_TE, choices, [True] * 5))


def test_moe_plus_plus_weighs_cheap_experts_by_tau():
    # f = (.5, .5, 0), P = (.5, .3, .2): .25 + .75 * .15
    probs_TE = matrix([[0.6, 0.3, 0.1], [0.4, 0.3, 0.3]])
    same(weighted_loss(probs_TE, [[0], [1]], [1, 0.75, 0.75], [True, True]), matrix(0.3625))
    same(weighted_loss(*even(8, 4, 2)[:2], [1.0] * 4, [True] * 8), matrix(2 / 4), "k / E: there is no factor E")


def test_the_parameter_penalty_of_equal_widths_is_the_width_times_the_loss_per_token():
    probs_TE, valid = numbers(0, 6, 4).softmax(-1), [True] * 6
    choices = probs_TE.topk(2).indices.tolist()
    expected = 7 * switch_loss(probs_TE, choices, valid, per="token")
    same(parameter_penalty(probs_TE, choices, [7] * 4, valid), expected)


def test_the_parameter_penalty_counts_width():
    # M = (.5 * 10, .5 * 30), P = (.5, .5): 2 (2.5 + 7.5)
    probs_TE = matrix([[0.8, 0.2], [0.2, 0.8]])
    same(parameter_penalty(probs_TE, [[0], [1]], [10, 30], [True, True]), matrix(20.0))


def test_the_relu_loss():
    # sums (3, 3), counts (2, 1): 2 / (4 * 1) * (6 + 3)
    logits_TE = matrix([[1, -1], [2, 3]]).requires_grad_()
    loss = relu_loss(logits_TE, 1, [True, True])
    same(loss, matrix(4.5))
    same(torch.autograd.grad(loss, logits_TE)[0], matrix([[1, 0], [1, 0.5]]), "the count, where the gate is open")
    same(relu_loss(logits_TE, 2, [True, True]), matrix(2.25), "k is in the denominator")
    even_TE = torch.eye(4).double()
    same(relu_loss(even_TE, 1, [True] * 4), matrix(1.0), "like the switch loss at an even load")


# --- CV^2 -------------------------------------------------------------------------------------------------------------


def test_cv_squared_is_of_the_population():
    same(cv_squared(matrix([1, 2, 3, 4])), matrix(0.2))  # 1.25 / 6.25; unbiased it were .2667
    same(cv_squared(matrix([3, 3, 3])), matrix(0.0))
    same(cv_squared(matrix([1, 0, 0, 0])), matrix(3.0), "E - 1 where one expert has all")


def test_importance_is_the_sum_of_weights_and_load_that_of_chances():
    # importance (1, 2, 3, 4) / 5 * 1
    weights = [matrix([0.1, 0.3]), matrix([0.1, 0.4]), matrix([0.3, 0.4]), matrix([0.4, 0.0])]
    choices = [[0, 2], [0, 3], [2, 3], [1, 0]]
    same(importance_loss(choices, weights, 4, [True] * 4), cv_squared(matrix([0.2, 0.4, 0.6, 0.8])))
    same(load_loss(matrix([[1, 0, 3, 0], [0, 2, 0, 4]]), [True, True]), matrix(0.2))
    same(gate_importance_loss(matrix([[0.1, 0.2, 0.3, 0.4]] * 3), [True] * 3), matrix(0.2))


def test_hierarchical_importance_is_the_importance_of_the_flat_edges():
    primary_TG, secondary_TGE = numbers(0, 5, 2).softmax(-1), numbers(1, 5, 2, 3).softmax(-1)
    flat_TE = (primary_TG[:, :, None] * secondary_TGE).flatten(1)
    expected = importance_loss([list(range(6))] * 5, list(flat_TE), 6, [True] * 5)
    same(cv_squared(hierarchical_importance(primary_TG, secondary_TGE, [True] * 5).flatten()), expected)


# --- z-loss and entropies ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("num_experts", "expected"), [(4, 1.92181), (8, 4.32408), (64, 17.2963)])
def test_the_z_loss_of_zero_logits(num_experts, expected):
    loss = z_loss(torch.zeros(3, num_experts).double(), [True] * 3)
    assert abs(loss.item() - expected) < 5e-5
    same(loss, matrix(math.log(num_experts) ** 2))


def test_the_gradient_of_the_z_loss():
    logits_TE = numbers(0, 4, 3).requires_grad_()
    (grad_TE,) = torch.autograd.grad(z_loss(logits_TE, [True] * 4), logits_TE)
    same(grad_TE, 2 / 4 * logits_TE.logsumexp(-1, keepdim=True) * logits_TE.softmax(-1))


def test_entropies():
    same(entropy_loss(torch.full((2, 4), 0.25).double(), [True, True]), matrix(math.log(4)))
    same(entropy_loss(matrix([[0, 1, 0]]), [True]), matrix(0.0))
    same(entropy_loss(matrix([[0.5, 0.5], [1, 0]]), [True, True]), matrix(math.log(2) / 2))


def test_the_predictor_of_depth_is_scored_by_its_cross_entropy():
    # chances 1 / 2 and 3 / 4, the first chosen, the second not: (ln 2 + ln 4) / 2
    logits_T = matrix([0, math.log(3), 5])
    same(selection_loss(logits_T, [True, False, True], [True, True, False]), matrix(1.5 * math.log(2)))


def test_the_local_loss_is_low_and_the_global_loss_off_where_sure_tokens_are_spread():
    probs_TE, modality, valid = matrix([[1, 0], [0, 1], [0.5, 0.5]]), [0, 0, 1], [True] * 3
    same(limoe_local_loss(probs_TE, modality, 0, valid), matrix(0.0))
    same(limoe_local_loss(probs_TE, modality, 1, valid), matrix(math.log(2)))
    same(limoe_global_loss(probs_TE, modality, 0, valid, threshold=math.log(1.9)), matrix(0.0))


def test_the_global_hinge_is_the_entropy_that_is_missing():
    # mean (.75, .25): entropy .562335
    probs_TE, threshold = matrix([[1, 0], [0.5, 0.5]]).requires_grad_(), math.log(2)
    lacking = threshold + 0.75 * math.log(0.75) + 0.25 * math.log(0.25)
    loss = limoe_global_loss(probs_TE, [3, 3], 3, [True, True], threshold)
    same(loss, matrix(lacking))
    same(torch.autograd.grad(loss, probs_TE)[0], matrix([[1 + math.log(0.75), 1 + math.log(0.25)]] * 2) / 2)


def test_a_satisfied_or_absent_modality_gives_no_gradient():
    probs_TE = matrix([[0.5, 0.5]] * 2).requires_grad_()
    for wanted in (0, 1):
        loss = limoe_global_loss(probs_TE, [0, 0], wanted, [True, True], threshold=0.5)
        same(loss, matrix(0.0))
        same(torch.autograd.grad(loss, probs_TE)[0], torch.zeros(2, 2).double())


# --- padding ----------------------------------------------------------------------------------------------------------

PADDED = {
    "switch": lambda p, c, v: switch_loss(p, c, v),
    "switch per token": lambda p, c, v: switch_loss(p, c, v, per="token"),
    "first choices": first_choice_loss,
    "gshard": gshard_loss,
    "global batch": lambda p, c, v: global_batch_loss(p, v, [4, 2, 1]),
    "nulls": lambda p, c, v: null_expert_loss(p, c, [1, 2], v, "token"),
    "moe++": lambda p, c, v: weighted_loss(p, c, [1, 0.5, 0.25], v),
    "penalty": lambda p, c, v: parameter_penalty(p, c, [3, 4, 5], v),
    "relu": lambda p, c, v: relu_loss(p - 0.3, 2, v),
    "z": lambda p, c, v: z_loss(p, v),
    "entropy": lambda p, c, v: entropy_loss(p, v),
    "local": lambda p, c, v: limoe_local_loss(p, [0] * len(v), 0, v),
    "global": lambda p, c, v: limoe_global_loss(p, [0] * len(v), 0, v, 2.0),
    "load": lambda p, c, v: load_loss(p, v),
    "importance of gates": lambda p, c, v: gate_importance_loss(p, v),
    "importance": lambda p, c, v: importance_loss(c, [row[list(e)] for row, e in zip(p, c)], 3, v),
}


@pytest.mark.parametrize("name", PADDED)
def test_padding_has_no_part(name):
    probs_TE = numbers(0, 5, 3).softmax(-1)
    choices, valid = probs_TE.topk(2).indices.tolist(), [True, False, True, True, False]
    rows = [t for t in range(5) if valid[t]]
    loss = PADDED[name]
    same(loss(probs_TE, choices, valid), loss(probs_TE[rows], [choices[t] for t in rows], [True] * 3))
    with pytest.raises(AssertionError):
        same(loss(probs_TE, choices, [True] * 5), loss(probs_TE, choices, valid))
