"""Experts that choose their tokens, worked by hand: expert choice, the softmax over tokens, token rounding."""

import pytest
import torch
from cases import numbers, same
from hypothesis import given
from hypothesis import strategies as st
from references.edges import apart, choices_of, gate_matrix
from references.expert_choice import (
    expert_choice,
    expert_choice_over_tokens,
    over_tokens,
    rounded,
    token_rounding,
    token_uniformity_loss,
)
from references.token_choice import softmax_top_k
from worked_vectors.values import logits_of, matrix, plain
from worked_vectors.values import rounded as expecting

THREE = [[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]]


def test_each_expert_takes_its_best_token_and_one_token_gets_none():
    assert plain(expert_choice(logits_of(THREE), 1)) == expecting((0, 0, 0.9), (2, 1, 0.8))


def test_a_token_may_have_every_expert():
    edges = expert_choice(logits_of(THREE), 2)
    assert plain(edges) == expecting((0, 0, 0.9), (1, 0, 0.6), (2, 1, 0.8), (1, 1, 0.4))


@pytest.mark.parametrize("num_chosen", [5, 9])
def test_experts_that_take_all_tokens_are_the_dense_mixture(num_chosen):
    logits_TE = numbers(0, 5, 3)
    same(gate_matrix(expert_choice(logits_TE, num_chosen), 5, 3), logits_TE.softmax(-1))


def test_the_last_token_changes_what_earlier_ones_get_as_it_does_not_in_token_choice():
    logits_TE = numbers(0, 8, 3)
    other_TE = logits_TE.clone()
    other_TE[-1] = matrix([9, -9, -9])
    routers = {
        True: lambda z: expert_choice(z, 2),
        False: lambda z: softmax_top_k(z, 2, normalize=False),
    }
    for leaks, route in routers.items():
        before, after = (gate_matrix(route(z), 8, 3)[:-1] for z in (logits_TE, other_TE))
        assert before.equal(after) != leaks


def test_sequences_that_are_routed_apart_do_not_see_each_other():
    logits_TE = numbers(0, 6, 3)
    edges = apart(lambda rows: expert_choice(logits_TE[rows], 1), [[0, 1, 2], [3, 5]])
    taken = {(e, t // 3) for t, chosen in enumerate(choices_of(edges, 6)) for e in chosen}
    assert taken == {(e, part) for e in range(3) for part in range(2)}
    assert all(edge.token != 4 for edge in edges)


# --- softmax over tokens ----------------------------------------------------------------------------------------------


def test_over_tokens_weights_are_divided_by_the_number_of_takers():
    # columns (.75, .25) and (.5, .5): both experts take token 0
    logits_TE = matrix([[3, 1], [1, 1]]).log()
    same(over_tokens(logits_TE), matrix([[0.75, 0.5], [0.25, 0.5]]))
    assert plain(expert_choice_over_tokens(logits_TE, 1)) == expecting((0, 0, 0.375), (0, 1, 0.25))


def test_the_token_uniformity_loss():
    # A = (.625, .375): 2 (.390625 + .140625)
    same(token_uniformity_loss(matrix([[3, 1], [1, 1]]).log()), matrix(1.0625))
    same(token_uniformity_loss(torch.zeros(5, 3).double()), matrix(1.0))
    same(token_uniformity_loss(matrix([[99, 99], [0, 0], [0, 0]])), matrix(3.0))


# --- token rounding ---------------------------------------------------------------------------------------------------

FOUR = [[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.3, 0.7]]
"""Best experts 0 0 0 1: counts 3 and 1, in tiles of 2 a tile and a half, and half a tile."""


def test_a_half_tile_goes_to_the_even_number_of_tiles():
    assert [rounded(count, 2, "nearest") for count in range(8)] == [0, 0, 2, 4, 4, 4, 6, 8]
    assert [rounded(count, 4, "nearest") for count in (1, 2, 3, 6, 10)] == [0, 0, 4, 8, 8]
    assert [rounded(count, 4, "up") for count in (0, 1, 4, 5)] == [0, 4, 4, 8]
    assert [rounded(count, 4, "down") for count in (0, 3, 4, 7)] == [0, 0, 4, 4]


def test_an_added_token_keeps_its_probability():
    edges = token_rounding(logits_of(FOUR), k=1, tile=2)
    assert plain(edges) == expecting((0, 0, 1), (1, 0, 1), (2, 0, 1), (3, 0, 0.3))


def test_rounding_up_adds_the_most_probable():
    added = plain(token_rounding(logits_of(FOUR), k=1, tile=2, mode="up"))[4:]
    assert added == expecting((3, 1, 1), (2, 1, 0.4))


def test_rounding_down_drops_the_lowest_weights_first():
    # three tokens each with weights of expert 0: .5 / .8, .4 / .7, .6 / .9; one tile of 2 remains
    probs = [[0.5, 0.3, 0.2], [0.4, 0.3, 0.3 - 1e-9], [0.6, 0.1, 0.3]]
    edges = token_rounding(logits_of(probs), k=2, tile=2, mode="down")
    kept = [(t, w) for t, e, w in plain(edges) if e == 0]
    assert kept == [(2, round(0.6 / 0.9, 9)), (0, round(0.5 / 0.8, 9))]


def test_raw_weights_are_the_probabilities_of_all():
    edges = token_rounding(logits_of(FOUR), k=1, tile=2, normalize=False)
    assert plain(edges) == expecting((0, 0, 0.9), (1, 0, 0.8), (2, 0, 0.6), (3, 0, 0.3))


def test_there_are_no_more_tokens_than_there_are():
    edges = token_rounding(logits_of(FOUR[:3]), k=1, tile=2, mode="up")
    assert [edge.expert for edge in edges] == [0, 0, 0]


@given(st.integers(0, 999), st.integers(1, 4), st.integers(2, 4), st.integers(1, 4), st.data())
def test_counts_are_multiples_of_the_tile_within_half_a_tile(seed, num_tiles, num_experts, tile, data):
    num_tokens, k = num_tiles * tile, data.draw(st.integers(1, num_experts))
    logits_TE = numbers(seed, num_tokens, num_experts)
    edges = token_rounding(logits_TE, k, tile)
    wanted = softmax_top_k(logits_TE, k, normalize=True)
    for e in range(num_experts):
        mine, theirs = ({edge.token for edge in found if edge.expert == e} for found in (edges, wanted))
        assert len(mine) % tile == 0
        assert abs(len(mine) - len(theirs)) <= tile / 2
        assert mine <= theirs or theirs <= mine, "an expert either drops or adds"
