"""Edges, their view sorted by expert, capacity, and joining."""

import pytest
import references
import torch
from cases import edge_lists, numbers, same
from hypothesis import given
from hypothesis import strategies as st

from sparsemix import Routing, TokenInfo, load, sort_by_expert
from sparsemix.routing import concat, drop_over_capacity, flatten, num_valid_tokens, valid_edges


def edges(expert: list[int], token: list[int] | None = None, **fields) -> Routing:
    token = list(range(len(expert))) if token is None else token
    return Routing(torch.tensor(token), torch.tensor(expert), torch.ones(len(expert)), **fields)


@given(edge_lists())
def test_the_dispatch_is_the_edges_in_order_of_expert_then_edge_and_the_dead_last(case):
    routing, num_tokens, num_experts = case
    live = [True] * len(routing.expert_N) if routing.live_N is None else routing.live_N.tolist()
    order = sorted((e if live[n] else num_experts, n) for n, e in enumerate(routing.expert_N.tolist()))

    dispatch = sort_by_expert(routing, num_experts)

    assert dispatch.edge_N.tolist() == [n for _, n in order]
    assert dispatch.token_N.tolist() == [int(routing.token_N[n]) for _, n in order]
    assert dispatch.weight_N.tolist() == [routing.weight_N[n].item() for _, n in order]
    assert dispatch.bounds.dtype == torch.int32
    assert dispatch.bounds.tolist() == [sum(e < bound for e, _ in order) for bound in range(num_experts + 1)]
    assert dispatch.bounds[-1] == sum(live)
    assert dispatch.all_live == (routing.live_N is None)
    if routing.edges_per_token is None:
        assert dispatch.slot_TK is None
    else:
        assert dispatch.slot_TK.shape == (num_tokens, routing.edges_per_token)
        place = {n: i for i, (_, n) in enumerate(order)}
        assert dispatch.slot_TK.flatten().tolist() == [place[n] for n in range(len(order))]


@given(edge_lists(), st.integers(1, 4), st.randoms(use_true_random=False))
def test_capacity_serves_the_first_of_each_expert_in_the_given_order(case, capacity, random):
    routing, _, num_experts = case
    order = list(range(len(routing.expert_N)))
    random.shuffle(order)
    live = [True] * len(order) if routing.live_N is None else routing.live_N.tolist()
    taken, kept = [0] * num_experts, [False] * len(order)
    for n in order:
        e = int(routing.expert_N[n])
        if live[n] and taken[e] < capacity:
            taken[e] += 1
            kept[n] = True

    limited = drop_over_capacity(routing, num_experts, capacity, torch.tensor(order, dtype=torch.int64).view(-1))

    assert limited.live_N.tolist() == kept
    assert limited.expert_N is routing.expert_N  # the choice is never overwritten


@given(edge_lists())
def test_capacity_of_at_least_the_largest_load_drops_nothing(case):
    routing, _, num_experts = case
    largest = max(1, int(load(routing, num_experts).max()))
    limited = drop_over_capacity(routing, num_experts, largest, torch.arange(len(routing.expert_N)))
    assert (limited.live_N == (True if routing.live_N is None else routing.live_N)).all()


@given(st.lists(st.integers(0, 3), max_size=12), st.integers(1, 5))
def test_for_one_edge_a_token_the_number_dropped_is_what_is_over_capacity(expert, capacity):
    routing = edges(expert)._replace(expert_N=torch.tensor(expert, dtype=torch.int64))
    limited = drop_over_capacity(routing, 4, capacity, torch.arange(len(expert)))
    assert int((~limited.live_N).sum()) == sum(max(0, expert.count(e) - capacity) for e in range(4))


@given(edge_lists(), st.data())
def test_load_counts_valid_choices_live_or_not(case, data):
    routing, num_tokens, num_experts = case
    valid = data.draw(st.lists(st.booleans(), min_size=num_tokens, max_size=num_tokens))
    routing = routing._replace(info=TokenInfo(valid_T=torch.tensor(valid, dtype=torch.bool)))
    choices = [[int(e)] for e in routing.expert_N]
    edge_valid = [valid[t] for t in routing.token_N.tolist()]

    assert load(routing, num_experts).tolist() == references.counts(choices, num_experts, edge_valid)
    assert valid_edges(routing).tolist() == edge_valid
    assert int(num_valid_tokens(routing, num_tokens)) == sum(valid)


def test_without_padding_every_token_is_valid():
    routing = edges([0, 1, 1])
    assert valid_edges(routing) is None
    assert num_valid_tokens(routing, 3) == 3
    assert num_valid_tokens(routing._replace(info=TokenInfo()), 3) == 3
    assert load(routing, 3).tolist() == [1, 2, 0]


def test_flatten_finds_the_routings_inside_outer_before_inner():
    deepest, middle, sibling = edges([0]), edges([1]), edges([2])
    outer = edges([3], inner=(middle._replace(inner=(deepest,)), sibling))
    found = flatten([outer, sibling])
    assert [int(routing.expert_N) for routing in found] == [3, 1, 0, 2, 2]
    assert [int(routing.expert_N) for routing in flatten(outer)] == [3, 1, 0, 2]


def test_gradient_of_the_weights_passes_through_the_sort():
    weight_N = torch.arange(4.0, requires_grad=True)
    routing = edges([1, 0, 1, 0])._replace(weight_N=weight_N)
    (sort_by_expert(routing, 2).weight_N * torch.tensor([10.0, 20.0, 30.0, 40.0])).sum().backward()
    assert weight_N.grad.tolist() == [30.0, 10.0, 40.0, 20.0]


# --- joining ---------------------------------------------------------------------------------------------------------


def routed(seed: int, num_tokens: int, **fields) -> Routing:
    """Three experts, two edges a token, with all that a noisy router gives."""
    token_N = torch.arange(num_tokens).repeat_interleave(2)
    return Routing(
        token_N,
        torch.randint(3, (2 * num_tokens,), generator=torch.Generator().manual_seed(seed)),
        numbers(seed, 2 * num_tokens).requires_grad_(),
        logits_TE=numbers(seed + 1, num_tokens, 3),
        probs_TE=numbers(seed + 2, num_tokens, 3).softmax(-1),
        load_TE=numbers(seed + 3, num_tokens, 3).sigmoid(),
        edges_per_token=2,
    )._replace(**fields)


def test_joined_routings_are_the_routing_of_all_tokens():
    parts = [routed(0, 2), routed(10, 0), routed(20, 3)]

    whole = concat(parts, [2, 0, 3])

    assert whole.token_N.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    for name in ("expert_N", "weight_N", "logits_TE", "probs_TE", "load_TE"):
        assert getattr(whole, name).equal(torch.cat([getattr(part, name) for part in parts])), name
    assert whole.edges_per_token == 2
    assert whole.live_N is whole.info is None
    assert whole.inner == ()
    whole.weight_N[5].backward()
    assert parts[2].weight_N.grad.tolist() == [0, 1, 0, 0, 0, 0]


def test_what_only_some_leave_out_is_live_and_valid():
    dropped, padded = torch.tensor([True, False, False, True]), torch.tensor([False, True])
    parts = [routed(0, 2, live_N=dropped), routed(1, 1), routed(2, 2, info=TokenInfo(valid_T=padded))]

    whole = concat(parts, [2, 1, 2])

    assert whole.live_N.tolist() == [*dropped.tolist(), True, True, True, True, True, True]
    assert whole.info.valid_T.tolist() == [True, True, True, False, True]
    assert whole.info.id_T is None


def test_other_facts_about_tokens_are_joined_and_different_numbers_of_edges_make_it_ragged():
    ids = [TokenInfo(id_T=torch.tensor([4, 5])), TokenInfo(id_T=torch.tensor([6]))]
    whole = concat([routed(0, 2, info=ids[0]), routed(1, 1, info=ids[1], edges_per_token=None)], [2, 1])
    assert whole.info.id_T.tolist() == [4, 5, 6]
    assert whole.info.valid_T is whole.edges_per_token is None


def test_what_routers_ask_for_is_the_mean_over_all_valid_tokens():
    losses, padded = numbers(0, 3).requires_grad_(), TokenInfo(valid_T=torch.tensor([True, False, False]))
    parts = [routed(0, 2, loss=losses[0]), routed(1, 0, loss=losses[1]), routed(2, 3, loss=losses[2], info=padded)]
    mean = concat(parts, [2, 0, 3]).loss
    same(mean, (2 * losses[0] + losses[2]) / 3)
    mean.backward()
    same(losses.grad, torch.tensor([2 / 3, 0, 1 / 3], dtype=torch.float64))


def test_routings_inside_are_joined_router_by_router():
    hashed = {"logits_TE": None, "probs_TE": None, "load_TE": None}
    inner = [(routed(i, 4), routed(i + 5, 2, **hashed)) for i in range(2)]
    whole = concat([routed(i, 3, inner=inner[i]) for i in range(2)], [3, 3])
    assert [part.token_N.max().item() for part in whole.inner] == [7, 3]
    assert whole.inner[0].logits_TE.equal(torch.cat([inner[0][0].logits_TE, inner[1][0].logits_TE]))


def test_a_field_of_some_routings_only_is_refused():
    with pytest.raises(ValueError, match=r"^routings.logits_TE: must be in all of them or in none, got 1 of 2$"):
        concat([routed(0, 2), routed(0, 2, logits_TE=None)], [2, 2])
    unknown = routed(0, 2, logits_TE=None, probs_TE=None, load_TE=None, edges_per_token=None)
    with pytest.raises(ValueError, match=r"^routing: must have logits or K edges a token for its tokens to be counted"):
        concat([routed(0, 2, inner=(unknown,))], [2])
