"""No token left behind: round after round, tokens without an expert ask their next best."""

import pytest
import references
import torch
from cases import numbers, same
from hypothesis import given, settings
from hypothesis import strategies as st
from routers.examples import DIM, built, gradient, kept, same_edges, told

from sparsemix import CapacityConfig, TokenInfo, balance_loss
from sparsemix.routers import NoTokenLeftBehindRouterConfig, SwitchRouterConfig


def asking(k: int, factor: float, **fields) -> NoTokenLeftBehindRouterConfig:
    capacity = CapacityConfig(factor=factor, factor_eval=factor, count_choices=False, **fields)
    return NoTokenLeftBehindRouterConfig(k=k, capacity=capacity)


@settings(max_examples=50)
@given(
    st.lists(st.booleans(), max_size=9), st.integers(1, 4), st.sampled_from([0.3, 0.7, 1.0, 2.0]), st.booleans(),
    st.sampled_from([None, 3]), st.data(),
)  # fmt: skip
def test_edges_are_those_of_a_loop(valid, num_experts, factor, one_favourite, group_size, data):
    num_tokens, k = len(valid), data.draw(st.integers(1, num_experts))
    config = asking(k, factor, group_size=group_size)
    logits_TE = numbers(1, num_tokens, num_experts)
    if one_favourite:
        logits_TE[:, 0] = 3
    router, x_TD = told(config, logits_TE)
    routing = router(x_TD, TokenInfo(valid_T=torch.tensor(valid, dtype=torch.bool)))

    size = min(group_size or num_tokens, num_tokens)
    limit = config.capacity.places(size, k, num_experts, factor)
    parts = [
        [t for t in range(num_tokens) if t // size == g and valid[t]] for g in range(num_tokens // max(size, 1) + 1)
    ]
    edges = references.edges.apart(
        lambda rows: references.limited.no_token_left_behind(x_TD[rows], k, limit), parts if num_tokens else []
    )
    same_edges(routing, edges, x_TD)


def test_all_tokens_that_want_one_expert_fill_one_after_the_other():
    router, x_TD = told(asking(3, 1.0), torch.tensor([[3.0, 2, 1]]).expand(6, 3))
    assert kept(router(x_TD)) == [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2), (5, 2)]


def test_who_finds_no_place_in_k_rounds_stays_without():
    router, x_TD = told(asking(2, 1.0), torch.tensor([[3.0, 2, 1]]).expand(6, 3))
    assert kept(router(x_TD)) == [(0, 0), (1, 0), (2, 1), (3, 1)]


def test_every_token_has_an_expert_where_all_may_be_asked_and_places_suffice():
    routing = built(asking(5, 1.0), 5)(numbers(1, 20, DIM))
    assert routing.live_N.view(20, 5).sum(-1).tolist() == [1] * 20


def test_a_later_round_never_takes_a_place_from_an_earlier_one():
    """Token 2 is the surest of all, but asks expert 0 only after token 0 of the same expert's first round."""
    config = asking(2, 1.0, priority="token")
    router, x_TD = told(config, torch.tensor([[1.0, 0, -1], [0, 9, 0], [7, 8, 0]]))
    assert kept(router(x_TD)) == [(0, 0), (1, 1)]


def test_one_round_is_switch_routing():
    capacity = CapacityConfig(factor=0.5, factor_eval=0.5, count_choices=False)
    x_TD = numbers(1, 12, DIM)
    one = built(asking(1, 0.5), 4)(x_TD)
    switch = built(SwitchRouterConfig(jitter=0.0, capacity=capacity), 4)(x_TD)
    assert one.live_N.equal(switch.live_N)
    assert one.expert_N.equal(switch.expert_N)
    same(one.weight_N, switch.weight_N)


def test_without_a_limit_in_evaluation_all_go_to_their_first_choice():
    config = NoTokenLeftBehindRouterConfig(k=2, capacity=CapacityConfig(factor=0.1, count_choices=False))
    routing = built(config, 4).eval()(numbers(1, 12, DIM))
    assert routing.live_N.view(12, 2).tolist() == [[True, False]] * 12


@settings(max_examples=50)
@given(st.lists(st.booleans(), min_size=1, max_size=6))
def test_the_loss_counts_what_tokens_wanted_not_what_they_got(valid):
    config = asking(3, 0.5)
    router = built(config, 4)
    routing = router(numbers(1, len(valid), DIM), TokenInfo(valid_T=torch.tensor(valid)))
    wanted = routing.probs_TE.argmax(-1).view(-1, 1).tolist()
    expected = 0.01 * references.losses.first_choice_loss(routing.probs_TE, wanted, valid)
    loss = balance_loss(routing, config.losses(4))
    same(loss, expected)
    same(gradient(loss, router.weight_ED), gradient(expected, router.weight_ED))


def test_a_capacity_that_counts_every_question_or_lets_tokens_lose_their_place_is_refused():
    with pytest.raises(
        ValueError, match=r"capacity.count_choices: must be False, since .* got True; set count_choices"
    ):
        NoTokenLeftBehindRouterConfig(capacity=CapacityConfig())
    with pytest.raises(ValueError, match=r"capacity.priority: who has a place keeps it .*; use 'position' or 'token'"):
        asking(2, 1.0, priority="probability")
    with pytest.raises(ValueError, match=r"^k: must be in 1..num_experts, got k=4 with num_experts=2"):
        NoTokenLeftBehindRouterConfig().build(DIM, 2)
