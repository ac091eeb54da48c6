"""Experts with few places: GShard, Switch, no token left behind, V-MoE's priority, and each source's capacity."""

import pytest
import torch
from cases import numbers, same
from hypothesis import given
from hypothesis import strategies as st
from references.capacity import (
    by_batch_priority,
    by_position,
    by_weight,
    first_come,
    flaxformer_capacity,
    megablocks_capacity,
    megatron_capacity,
    mesh_capacity,
    moe_plus_plus_capacity,
    switch_capacity,
    vmoe_capacity,
)
from references.edges import Edge, apart, gate_matrix, kept_pairs
from references.limited import always, gshard, gshard_policy, mesh_policy, no_token_left_behind, switch
from references.token_choice import softmax_top_k
from worked_vectors.values import logits_of, matrix, plain, rounded

ALL = torch.zeros(99).double()
"""Uniform draws that let every second expert through."""


# --- GShard -----------------------------------------------------------------------------------------------------------


def test_four_tokens_for_one_expert_with_one_place_keep_the_first():
    logits_TE = logits_of([[0.9, 0.1]] * 4)
    edges = gshard(logits_TE, 1, torch.full((4,), 0.5))  # 2 g_2 = .2 lets no second expert through
    assert kept_pairs(edges) == {(0, 0)}
    assert len(edges) == 4


def test_a_second_choice_never_takes_the_place_of_a_first():
    edges = gshard(logits_of([[0.6, 0.4], [0.4, 0.6]]), 1, ALL)
    assert kept_pairs(edges) == {(0, 0), (1, 1)}


@pytest.mark.parametrize(
    ("policy", "g2", "expected"), [(gshard_policy, 0.3, 600), (mesh_policy, 0.1, 500), (mesh_policy, 0.3, 1000)]
)
def test_the_second_expert_is_kept_in_proportion_to_its_gate(policy, g2, expected):
    uniform_T = (torch.arange(1000).double() + 0.5) / 1000
    edges = gshard(logits_of([[1 - g2, g2]] * 1000), 1000, uniform_T, policy)
    assert len(edges) == 1000 + expected


def test_a_draw_at_the_chance_itself_leaves_the_second_expert_out():
    assert not gshard_policy(0.25, 0.5)
    assert not mesh_policy(0.125, 0.5, threshold=0.25)


def test_renormalising_before_the_drop_leaves_a_lone_expert_below_1():
    logits_TE = logits_of([[0.5, 0.2, 0.3], [0.1, 0.3, 0.6]])  # expert 2 has one place, which token 1 takes first
    before, after = (gshard(logits_TE, 1, ALL, always, when) for when in ("before", "after"))
    assert kept_pairs(before) == kept_pairs(after) == {(0, 0), (1, 2), (1, 1)}
    same(gate_matrix(before, 2, 3), matrix([[0.5 / 0.8, 0, 0], [0, 0.3 / 0.9, 0.6 / 0.9]]))
    same(gate_matrix(after, 2, 3), matrix([[1, 0, 0], [0, 0.3 / 0.9, 0.6 / 0.9]]))


def test_the_policy_sees_the_gate_as_it_is_at_that_time():
    logits_TE, uniform_T = logits_of([[0.5, 0.3, 0.2]]), torch.tensor([0.7])  # 2 * .375 > .7 > 2 * .3
    assert len(gshard(logits_TE, 9, uniform_T, renormalize="before")) == 2
    assert len(gshard(logits_TE, 9, uniform_T, renormalize="after")) == 1


def test_each_group_has_places_of_its_own():
    logits_TE, uniform_T = logits_of([[0.9, 0.1]] * 5), torch.ones(5)
    groups = [[0, 2], [1, 3]]  # token 4 is padding
    edges = apart(lambda rows: gshard(logits_TE[rows], 1, uniform_T[rows]), groups)
    assert kept_pairs(edges) == {(0, 0), (1, 0)}
    assert {edge.token for edge in edges} == {0, 1, 2, 3}


def kept_by_positions(first_TE, second_TE, limit: int, truncate: bool) -> set[tuple[int, int]]:
    """By cumulative sums: second choices count on from the first choices, truncated to the capacity or not."""
    place_TE = first_TE.cumsum(0) - first_TE
    kept_TE = first_TE * (place_TE < limit)
    asked_E = (kept_TE if truncate else first_TE).sum(0)
    kept_TE = kept_TE + second_TE * (second_TE.cumsum(0) - second_TE + asked_E < limit)
    return {(t, e) for t, e in kept_TE.nonzero().tolist()}


@given(st.integers(0, 999), st.integers(1, 8), st.integers(2, 4), st.integers(1, 4), st.booleans())
def test_counting_on_from_truncated_or_from_all_first_choices_keeps_the_same(
    seed, num_tokens, num_experts, limit, truncate
):
    """An expert whose first choices overflow is full either way, so the sources' two ways agree."""
    logits_TE = numbers(seed, num_tokens, num_experts)
    edges = gshard(logits_TE, limit, ALL, always)
    one_hot = torch.nn.functional.one_hot(logits_TE.topk(2).indices, num_experts)
    assert kept_pairs(edges) == kept_by_positions(one_hot[:, 0], one_hot[:, 1], limit, truncate)


# --- one expert a token -----------------------------------------------------------------------------------------------


def test_switch_weighs_by_the_probability_and_serves_by_position():
    edges = switch(logits_of([[0.7, 0.3], [0.9, 0.1], [0.2, 0.8]]), 1)
    assert plain(edges) == rounded((0, 0, 0.7), (1, 0, 0.9), (2, 1, 0.8))
    assert kept_pairs(edges) == {(0, 0), (2, 1)}


def test_the_weight_is_the_switch_routers_gradient():
    logits_TE = logits_of([[0.7, 0.3]]).requires_grad_()
    (grad_TE,) = torch.autograd.grad(switch(logits_TE, 1)[0].weight, logits_TE)
    same(grad_TE, matrix([[0.21, -0.21]]))  # p_i (delta - p_j)


def test_no_token_is_left_behind_while_there_is_room():
    # places of one: token 0 takes expert 0; then 1 takes its second and 2 takes its second; token 3 finds all full
    edges = no_token_left_behind(logits_of([[0.5, 0.3, 0.2]] * 2 + [[0.5, 0.2, 0.3]] + [[0.5, 0.3, 0.2]]), 3, 1)
    assert plain(edges) == rounded((0, 0, 0.5), (1, 1, 0.3), (2, 2, 0.3), (3, 0, 0.5))
    assert [edge.kept for edge in edges] == [True, True, True, False]


def test_a_first_choice_of_any_token_goes_before_a_second_one():
    edges = no_token_left_behind(logits_of([[0.6, 0.4], [0.6, 0.4], [0.4, 0.6]]), 2, 1)
    assert kept_pairs(edges) == {(0, 0), (2, 1)}


def test_one_round_is_switch():
    logits_TE = numbers(0, 12, 3)
    found, expected = no_token_left_behind(logits_TE, 1, 2), switch(logits_TE, 2)
    assert plain(found) == plain(expected)
    assert kept_pairs(found) == kept_pairs(expected)
    assert len(kept_pairs(expected)) < 12


# --- who comes first --------------------------------------------------------------------------------------------------


def edges_of(*rows: tuple[int, int, float]) -> list[Edge]:
    return [Edge(t, e, matrix(weight)) for t, e, weight in rows]


def test_three_orders_of_serving():
    edges = edges_of((0, 0, 0.5), (0, 1, 0.4), (1, 0, 0.8), (1, 1, 0.1), (2, 1, 0.3), (2, 0, 0.2))
    orders = {by: [edge[:2] for edge in by(edges)] for by in (by_position, by_batch_priority, by_weight)}
    assert orders[by_position] == [(0, 0), (1, 0), (2, 1), (0, 1), (1, 1), (2, 0)]
    assert orders[by_batch_priority] == [(1, 0), (0, 0), (2, 1), (1, 1), (0, 1), (2, 0)]
    assert orders[by_weight] == [(1, 0), (0, 0), (0, 1), (2, 1), (2, 0), (1, 1)]
    assert kept_pairs(first_come(by_batch_priority(edges), 1)) == {(1, 0), (2, 1)}
    assert kept_pairs(first_come(by_weight(edges), 1)) == {(1, 0), (0, 1)}


@pytest.mark.parametrize(("order", "equivariant"), [(by_batch_priority, True), (by_weight, True), (by_position, False)])
def test_priorities_by_gates_do_not_see_the_order_of_tokens(order, equivariant):
    logits_TE, order_T = numbers(1, 12, 4), torch.randperm(12, generator=torch.Generator().manual_seed(0)).tolist()
    kept = kept_pairs(first_come(order(softmax_top_k(logits_TE, 2, normalize=False)), 2))
    moved = kept_pairs(first_come(order(softmax_top_k(logits_TE[order_T], 2, normalize=False)), 2))
    assert ({(order_T[t], e) for t, e in moved} == kept) == equivariant


def test_with_one_place_batch_priority_keeps_the_largest_gate():
    logits_TE = numbers(2, 20, 3)
    kept = kept_pairs(first_come(by_batch_priority(softmax_top_k(logits_TE, 1, normalize=False)), 1))
    probs_TE = logits_TE.softmax(-1)
    mine = torch.where(torch.nn.functional.one_hot(logits_TE.argmax(-1), 3).bool(), probs_TE, 0)
    assert kept == {(int(mine[:, e].argmax()), e) for e in range(3)}


# --- how many places --------------------------------------------------------------------------------------------------


def test_capacities_of_a_thousand_tokens():
    """1000 tokens, 16 experts, factor 1.25: 78.125 an expert, twice that where k = 2 is included."""
    assert switch_capacity(1000, 16, 1.25) == 78.125
    assert mesh_capacity(1000, 16, 1.25) == 78
    assert flaxformer_capacity(1000, 16, 1.25) == 78
    assert flaxformer_capacity(1000, 16, 1.26) == 79, "78.75 is rounded to the nearest"
    assert megatron_capacity(1000, 2, 16, 1.25) == 157
    assert megablocks_capacity(1000, 2, 16, 1.25) == 156
    assert vmoe_capacity(1000, 2, 16, 1.25) == 160, "157, up to a multiple of 4"


def test_a_factor_of_1_25_without_k_holds_five_eighths_of_two_choices():
    assert 16 * mesh_capacity(1024, 16, 1.25) / (2 * 1024) == 0.625


def test_the_least_capacity_is_4_where_the_source_says_so():
    assert mesh_capacity(8, 16, 1.25) == flaxformer_capacity(8, 16, 1.25) == 4


def test_moe_plus_plus_gives_cheap_experts_more_places():
    assert moe_plus_plus_capacity(100, 8, 4, tau=0.75, factor=1.1) == (8, 11)  # 110 / (6 + 4) = 11; .75 of it 8.25
