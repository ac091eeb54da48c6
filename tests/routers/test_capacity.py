"""Capacity: how many places an expert has, who is served first, and who is dropped."""

import math
from fractions import Fraction

import pytest
import torch
from cases import numbers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from references import capacity as rules
from references.edges import Edge
from routers.examples import DIM, choosing, kept, router_of

from sparsemix import CapacityConfig, Routing, TokenInfo, load
from sparsemix.routers.select import token_choice

FACTORS = st.sampled_from(["0.01", "0.3", "0.5", "1", "1.1", "1.25", "1.3", "2", "100"])
ORDERS = {"position": rules.by_position, "token": rules.by_batch_priority, "probability": rules.by_weight}
sizes = st.tuples(st.integers(1, 300), st.integers(1, 8), st.integers(1, 64))


# --- how many --------------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(sizes, FACTORS)
def test_places_are_those_of_each_source(size, text):
    """Of the references with exact fractions: in floating point 1.1 * 10 > 11."""
    (num_tokens, k, num_experts), factor = size, Fraction(text)

    def places(**fields):
        return CapacityConfig(**fields).places(num_tokens, k, num_experts, float(text))

    assert places() == max(rules.megatron_capacity(num_tokens, k, num_experts, factor), 1)
    assert places(rounding="down") == max(rules.megablocks_capacity(num_tokens, k, num_experts, factor), 1)
    assert places(multiple_of=4) == rules.vmoe_capacity(num_tokens, k, num_experts, factor)
    flaxformer = places(count_choices=False, rounding="nearest", minimum=4)
    assert flaxformer == rules.flaxformer_capacity(num_tokens, num_experts, factor)
    mesh = places(count_choices=False, rounding="down", minimum=4)
    assert min(mesh, max(num_tokens, 4)) == rules.mesh_capacity(num_tokens, num_experts, factor)
    switch = rules.switch_capacity(num_tokens, num_experts, factor)
    assert places(count_choices=False) == max(math.ceil(switch), 1)


@pytest.mark.parametrize(
    ("num_tokens", "k", "num_experts", "factor", "expected"),
    [
        (8, 1, 4, 1.0, 2),
        (8, 2, 4, 1.0, 4),  # k counts
        (8, 1, 4, 1.25, 3),  # rounded up
        (10, 1, 1, 1.1, 11),  # though 1.1 * 10 > 11 in floating point
        (1, 1, 64, 0.01, 1),  # never below one token
        (0, 2, 4, 1.0, 1),
    ],
)
def test_places_by_default(num_tokens, k, num_experts, factor, expected):
    assert CapacityConfig().places(num_tokens, k, num_experts, factor) == expected


def test_without_k_a_factor_of_1_25_holds_five_eighths_of_two_choices_at_perfect_balance():
    """Mesh TensorFlow's formula: 62.5% of the assignments."""
    places = CapacityConfig(count_choices=False).places(1024, 2, 16, 1.25)
    assert places * 16 / (1024 * 2) == 0.625


def test_a_multiple_is_reached_upwards_whatever_the_rounding():
    for rounding, places in (("down", 4), ("nearest", 8), ("up", 8)):
        assert CapacityConfig(rounding=rounding, multiple_of=4).places(46, 1, 10, 1.0) == places


# --- who -------------------------------------------------------------------------------------------------------------


@st.composite
def situations(draw):
    """Tokens with k choices each, whose weights may tie, and a capacity."""
    num_tokens, num_experts = draw(st.integers(0, 9)), draw(st.integers(1, 5))
    k = draw(st.integers(1, num_experts))
    skewed = draw(st.booleans())
    choice = st.permutations(range(num_experts)).map(lambda order: sorted(order[:k]) if skewed else order[:k])
    choices = draw(st.lists(choice, min_size=num_tokens, max_size=num_tokens))
    weight = st.sampled_from([0.0, 0.1, 0.2, 0.3, 0.9])
    falling = st.lists(weight, min_size=k, max_size=k).map(lambda row: sorted(row, reverse=True))
    weights = draw(st.lists(falling, min_size=num_tokens, max_size=num_tokens))
    valid = draw(st.none() | st.lists(st.booleans(), min_size=num_tokens, max_size=num_tokens))
    config = CapacityConfig(
        factor=float(draw(FACTORS)),
        priority=draw(st.sampled_from(list(ORDERS))),
        minimum=draw(st.integers(1, 3)),
        multiple_of=draw(st.integers(1, 3)),
        count_choices=draw(st.booleans()),
        rounding=draw(st.sampled_from(["up", "down", "nearest"])),
        group_size=draw(st.none() | st.integers(1, 12)),
    )
    return choices, weights, num_experts, k, valid, config


def one_by_one(choices, weights, num_experts, k, valid, config) -> set[tuple[int, int]]:
    """(token, expert) of those who are taken when asked one by one, group by group."""
    size = min(config.group_size or len(choices), len(choices))
    found = set()
    for first in range(0, len(choices), size or 1):
        asking = [
            Edge(t, e, torch.tensor(weight))
            for t in range(first, min(first + size, len(choices)))
            for e, weight in zip(choices[t], weights[t])
            if valid is None or valid[t]
        ]
        places = config.places(size, k, num_experts, config.factor)
        answered = rules.first_come(ORDERS[config.priority](asking), places)
        found |= {(edge.token, edge.expert) for edge in answered if edge.kept}
    return found


def routing_of(choices, weights, k, valid) -> Routing:
    info = None if valid is None else TokenInfo(valid_T=torch.tensor(valid, dtype=torch.bool))
    expert_TK = torch.tensor(choices, dtype=torch.int64).view(-1, k)
    return token_choice(expert_TK, torch.tensor(weights).view(-1, k), info)


@given(situations())
@example(([[0], [0], [0], [0]], [[0.3]] * 4, 2, 1, None, CapacityConfig(factor=0.5)))
def test_those_are_kept_who_are_taken_when_asked_one_by_one(situation):
    choices, weights, num_experts, k, valid, config = situation
    routing = routing_of(choices, weights, k, valid)
    limited = config.limit(routing, len(choices), num_experts, training=True)
    assert set(kept(limited)) == one_by_one(*situation)
    for name in ("token_N", "expert_N", "weight_N"):
        assert getattr(limited, name) is getattr(routing, name)
    assert config.limit(routing, len(choices), num_experts, training=False) is routing  # dropless


@given(st.integers(1, 9), st.integers(1, 4), st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_for_one_choice_as_many_are_dropped_as_there_are_beyond_the_capacity(places, num_experts, choices):
    choices = [[choice % num_experts] for choice in choices]
    factor = places * num_experts / len(choices)
    routing = routing_of(choices, [[0.5]] * len(choices), 1, None)
    limited = CapacityConfig(factor=factor).limit(routing, len(choices), num_experts, training=True)
    beyond = (load(routing, num_experts) - places).clamp(min=0).sum()
    assert int((~limited.live_N).sum()) == int(beyond)


def test_four_tokens_for_one_expert_with_one_place_keep_the_first():
    router, x_TD = choosing([[0]] * 4, 2, normalize=False, capacity=CapacityConfig(factor=0.5))
    assert kept(router(x_TD)) == [(0, 0)]


def test_a_second_choice_never_takes_the_place_of_a_first():
    router, x_TD = choosing([[0, 1], [2, 1], [1, 2]], 3, capacity=CapacityConfig(factor=0.5))  # one place an expert
    assert kept(router(x_TD)) == [(0, 0), (1, 2), (2, 1)]


def test_by_token_the_surest_are_served_first_yet_no_second_choice_before_a_first():
    capacity = CapacityConfig(factor=0.5, priority="token")  # one place an expert
    choices, weights = [[0, 1], [0, 1], [1, 2]], [[0.6, 0.4], [0.9, 0.8], [0.5, 0.1]]
    limited = capacity.limit(routing_of(choices, weights, 2, None), 3, 3, training=True)
    assert kept(limited) == [(1, 0), (2, 1), (2, 2)]


def test_by_probability_one_place_goes_to_the_largest_gate():
    capacity = CapacityConfig(factor=0.5, priority="probability")
    router, x_TD = choosing([[0], [0], [1], [0]], 2, normalize=False, capacity=capacity)
    x_TD[1, 0], x_TD[3, 0] = 5.0, 4.0
    assert kept(router(x_TD)) == [(1, 0), (2, 1)]


@pytest.mark.parametrize(("priority", "equivariant"), [("probability", True), ("token", True), ("position", False)])
def test_only_the_position_priority_sees_the_order_of_tokens(priority, equivariant):
    router = router_of(4, k=2, capacity=CapacityConfig(factor=0.5, priority=priority))
    x_TD, order_T = numbers(1, 12, DIM), torch.randperm(12, generator=torch.Generator().manual_seed(0))
    live = router(x_TD).live_N.view(12, 2)
    assert live[order_T].equal(router(x_TD[order_T]).live_N.view(12, 2)) == equivariant


# --- in a router -----------------------------------------------------------------------------------------------------


def test_training_and_evaluation_have_a_capacity_each():
    capacity = CapacityConfig(factor=1.0, factor_eval=2.0)
    router, x_TD = choosing([[0]] * 8, 4, normalize=False, capacity=capacity)
    assert len(kept(router(x_TD))) == 2
    assert len(kept(router.eval()(x_TD))) == 4
    dropless, x_TD = choosing([[0]] * 8, 4, normalize=False, capacity=CapacityConfig(factor=1.0))
    assert len(kept(dropless.eval()(x_TD))) == 8


def test_groups_have_places_of_their_own():
    capacity = CapacityConfig(factor=1.0, group_size=4)
    router, x_TD = choosing([[0]] * 10, 2, normalize=False, capacity=capacity)
    assert [t for t, _ in kept(router(x_TD))] == [0, 1, 4, 5, 8, 9]


def test_one_token_always_finds_a_place():
    router, x_TD = choosing([[1, 2]], 64, capacity=CapacityConfig(factor=0.01))
    assert kept(router(x_TD)) == [(0, 1), (0, 2)]


def test_dropping_changes_neither_choices_nor_weights():
    x_TD = numbers(1, 12, DIM)
    free, limited = router_of(4, k=2)(x_TD), router_of(4, k=2, capacity=CapacityConfig(factor=0.3))(x_TD)
    assert not limited.live_N.all()
    assert limited.expert_N.equal(free.expert_N)
    assert limited.weight_N.equal(free.weight_N)
    assert load(limited, 4).equal(load(free, 4))


@pytest.mark.parametrize("priority", ORDERS)
def test_padding_takes_no_place_in_an_expert(priority):
    capacity = CapacityConfig(factor=1.0, priority=priority)
    router, x_TD = choosing([[0], [0], [0], [0]], 2, normalize=False, capacity=capacity)
    valid_T = torch.tensor([False, True, False, True])  # capacity ceil(1 * 4 / 2) = 2
    routing = router(x_TD, TokenInfo(valid_T=valid_T))
    assert kept(routing) == [(1, 0), (3, 0)]


def test_a_capacity_as_large_as_the_largest_load_drops_nobody():
    x_TD = numbers(1, 20, DIM)
    largest = int(load(router_of(4, k=2)(x_TD), 4).max())
    for places, whole in ((largest, True), (largest - 1, False)):
        router = router_of(4, k=2, capacity=CapacityConfig(factor=places * 4 / 40))
        assert bool(router(x_TD).live_N.all()) == whole
