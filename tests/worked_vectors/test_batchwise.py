"""Gates that hold the load by force: strictly balanced gating and its thresholds, and the running totals of 2013."""

import torch
from cases import numbers, same
from hypothesis import given
from hypothesis import strategies as st
from references.batchwise import (
    batchwise,
    batchwise_mask,
    running_totals,
    threshold_loss,
    threshold_mask,
    thresholded,
)
from references.edges import gate_matrix
from worked_vectors.values import logits_of, matrix, plain, rounded

PROBS = [[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.1, 0.9]]


def test_each_expert_takes_its_largest_values_and_each_token_renormalises():
    # three each: expert 0 takes tokens 0 1 2, expert 1 takes 3 2 1
    expected = rounded((0, 0, 1), (1, 0, 0.8), (1, 1, 0.2), (2, 0, 0.6), (2, 1, 0.4), (3, 1, 1))
    assert plain(batchwise(logits_of(PROBS), 3)) == expected


def test_a_token_that_no_expert_takes_has_no_edge():
    assert plain(batchwise(logits_of(PROBS), 1)) == rounded((0, 0, 1), (3, 1, 1))


def test_all_experts_have_the_same_load():
    edges = batchwise(numbers(0, 12, 4), 6)
    assert [sum(edge.expert == e for edge in edges) for e in range(4)] == [6] * 4


def test_thresholds_decide_for_each_token_alone():
    edges = thresholded(logits_of(PROBS), matrix([0.7, 0.35]))
    assert plain(edges) == rounded((0, 0, 1), (1, 0, 1), (2, 1, 1), (3, 1, 1))
    assert plain(edges) == plain(batchwise(logits_of(PROBS), 2)), "these thresholds give the batchwise mask"


def test_a_value_at_the_threshold_is_not_above_it():
    assert threshold_mask(matrix([[0.5, 0.5]]), matrix([0.5, 0.25])) == [[False, True]]


def test_the_threshold_loss_is_zero_where_the_masks_agree():
    assert threshold_loss(matrix(PROBS), matrix([0.7, 0.35]), 2).item() == 0


def test_a_threshold_that_keeps_too_few_is_pushed_down_by_their_number():
    threshold_E = matrix([0.85, 0.35]).requires_grad_()  # expert 0 loses token 1: -(.8 - .85)
    loss = threshold_loss(matrix(PROBS), threshold_E, 2)
    same(loss, matrix(0.05))
    same(torch.autograd.grad(loss, threshold_E)[0], matrix([1, 0]))


@given(st.integers(0, 999), st.integers(1, 6), st.integers(1, 4))
def test_the_threshold_loss_is_never_negative_and_its_gradient_counts_tokens(seed, num_tokens, num_experts):
    probs_TE = numbers(seed, num_tokens, num_experts).softmax(-1)
    threshold_E = numbers(seed + 1, num_experts).sigmoid().requires_grad_()
    m = 1 + seed % num_tokens
    loss = threshold_loss(probs_TE, threshold_E, m)
    batch, above = batchwise_mask(probs_TE, m), threshold_mask(probs_TE, threshold_E)
    assert loss.item() >= 0
    assert (loss.item() == 0) == (batch == above)
    expected = matrix(batch).sum(0) - matrix(above).sum(0)
    same(torch.autograd.grad(loss, threshold_E)[0], expected)


# --- running totals ---------------------------------------------------------------------------------------------------

THREE = [[0.8, 0.2]] * 3


def test_an_expert_far_above_the_mean_total_is_closed_for_the_next_example():
    # totals (.8, .2), (1.6, .4): .6 above the mean of 1, so the third example has expert 1 only
    edges, totals_E = running_totals(logits_of(THREE), torch.zeros(2), margin=0.5)
    same(gate_matrix(edges, 3, 2), matrix([[0.8, 0.2], [0.8, 0.2], [0, 1]]))
    same(totals_E, matrix([1.6, 1.4]))


def test_frozen_totals_change_after_the_batch():
    edges, totals_E = running_totals(logits_of(THREE), torch.zeros(2), margin=0.5, frozen=True)
    same(gate_matrix(edges, 3, 2), matrix(THREE))
    same(totals_E, matrix([2.4, 0.6]))
    edges, totals_E = running_totals(logits_of(THREE), totals_E, margin=0.5, frozen=True)
    same(gate_matrix(edges, 3, 2), matrix([[0, 1]] * 3))
    same(totals_E, matrix([2.4, 3.6]))


def test_an_expert_at_the_margin_is_still_open():
    for margin, gates in ((0.5, [0.8, 0.2]), (0.49, [0, 1])):
        edges, _ = running_totals(logits_of(THREE[:1]), matrix([1.0, 0.0]), margin)  # .5 above the mean
        same(gate_matrix(edges, 1, 2), matrix([gates]))


def test_totals_persist_across_batches():
    logits_TE = numbers(0, 8, 3)
    whole, totals_E = running_totals(logits_TE, torch.zeros(3), margin=0.3)
    first, middle_E = running_totals(logits_TE[:3], torch.zeros(3), margin=0.3)
    second, end_E = running_totals(logits_TE[3:], middle_E, margin=0.3)
    assert len(whole) < 8 * 3
    assert plain(whole) == plain(first) + [(t + 3, e, w) for t, e, w in plain(second)]
    same(end_E, totals_E)


def test_open_gates_sum_to_1_and_so_do_totals_to_the_number_of_examples():
    edges, totals_E = running_totals(numbers(0, 9, 4), torch.zeros(4), margin=0.2)
    same(gate_matrix(edges, 9, 4).sum(1), torch.ones(9).double())
    same(totals_E.sum(), matrix(9.0))


def test_without_a_tight_margin_it_is_the_dense_softmax():
    logits_TE = numbers(0, 4, 3)
    edges, _ = running_totals(logits_TE, torch.zeros(3), margin=1e9)
    same(gate_matrix(edges, 4, 3), logits_TE.softmax(-1))
