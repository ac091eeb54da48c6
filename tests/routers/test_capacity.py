"""Capacity: who finds a place with an expert, and who is dropped."""

import math

import pytest
import references
import torch
from cases import numbers
from hypothesis import given
from hypothesis import strategies as st
from routers.examples import DIM, choosing, kept, router_of

from sparsemix import TokenInfo, load


@given(
    st.integers(0, 8), st.integers(2, 5), st.sampled_from([0.01, 0.5, 1.0, 1.3, 100.0]),
    st.sampled_from(["position", "probability"]), st.booleans(), st.data(),
)  # fmt: skip
def test_capacity_keeps_what_being_asked_one_by_one_keeps(num_tokens, num_experts, factor, priority, skewed, data):
    k = data.draw(st.integers(2, num_experts))
    valid = data.draw(st.lists(st.booleans(), min_size=num_tokens, max_size=num_tokens))
    router = router_of(num_experts, k=k, capacity_factor=factor, priority=priority)
    x_TD = numbers(1, num_tokens, DIM)
    if skewed:
        x_TD[:, 0] = 1
        with torch.no_grad():
            router.weight_ED[0, 0] = 9
    routing = router(x_TD, TokenInfo(valid_T=torch.tensor(valid, dtype=torch.bool)))

    choices = routing.expert_N.view(num_tokens, k).tolist()
    weights = routing.weight_N.detach().view(num_tokens, k).tolist()
    limit = max(1, math.ceil(round(factor * num_tokens * k / num_experts, 9)))
    expected = references.served(choices, num_experts, limit, priority, lambda t, j: weights[t][j], valid)
    assert routing.live_N.view(num_tokens, k).tolist() == [
        [(t, j) in expected for j in range(k)] for t in range(num_tokens)
    ]


def test_four_tokens_for_one_expert_with_one_place_keep_the_first():
    router, x_TD = choosing([[0]] * 4, 2, normalize=False, capacity_factor=0.5)
    assert kept(router(x_TD), 1) == [(0, 0)]


def test_a_second_choice_never_takes_the_place_of_a_first():
    router, x_TD = choosing([[0, 1], [2, 1], [1, 2]], 3, capacity_factor=0.5)  # one place an expert
    assert kept(router(x_TD), 2) == [(0, 0), (1, 2), (2, 1)]


def test_by_probability_one_place_goes_to_the_largest_gate():
    router, x_TD = choosing([[0], [0], [1], [0]], 2, normalize=False, capacity_factor=0.5, priority="probability")
    x_TD[1, 0], x_TD[3, 0] = 5.0, 4.0
    assert kept(router(x_TD), 1) == [(1, 0), (2, 1)]


@pytest.mark.parametrize(("priority", "equivariant"), [("probability", True), ("position", False)])
def test_only_the_probability_priority_does_not_see_the_order_of_tokens(priority, equivariant):
    router = router_of(4, k=2, capacity_factor=0.5, priority=priority)
    x_TD, order_T = numbers(1, 12, DIM), torch.randperm(12, generator=torch.Generator().manual_seed(0))
    live = router(x_TD).live_N.view(12, 2)
    assert live[order_T].equal(router(x_TD[order_T]).live_N.view(12, 2)) == equivariant


def test_training_and_evaluation_have_a_capacity_each():
    router, x_TD = choosing([[0]] * 8, 4, normalize=False, capacity_factor=1.0, capacity_factor_eval=2.0)
    assert len(kept(router(x_TD), 1)) == 2
    assert len(kept(router.eval()(x_TD), 1)) == 4
    dropless, x_TD = choosing([[0]] * 8, 4, normalize=False, capacity_factor=1.0)
    assert len(kept(dropless.eval()(x_TD), 1)) == 8


def test_one_token_always_finds_a_place():
    router, x_TD = choosing([[1, 2]], 64, capacity_factor=0.01)
    assert kept(router(x_TD), 2) == [(0, 1), (0, 2)]


def test_dropping_changes_neither_choices_nor_weights():
    x_TD = numbers(1, 12, DIM)
    free, limited = router_of(4, k=2)(x_TD), router_of(4, k=2, capacity_factor=0.3)(x_TD)
    assert not limited.live_N.all()
    assert limited.expert_N.equal(free.expert_N)
    assert limited.weight_N.equal(free.weight_N)
    assert load(limited, 4).equal(load(free, 4))


@pytest.mark.parametrize("priority", ["position", "probability"])
def test_padding_takes_no_place_in_an_expert(priority):
    router, x_TD = choosing([[0], [0], [0], [0]], 2, normalize=False, capacity_factor=1.0, priority=priority)
    valid_T = torch.tensor([False, True, False, True])  # capacity ceil(1 * 4 / 2) = 2
    routing = router(x_TD, TokenInfo(valid_T=valid_T))
    assert kept(routing, 1) == [(1, 0), (3, 0)]
