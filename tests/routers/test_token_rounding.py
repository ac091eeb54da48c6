"""Token rounding: loads in whole tiles in training, plain top-k in evaluation."""

import pytest
import torch
from cases import numbers, same
from hypothesis import given
from hypothesis import strategies as st
from references import expert_choice, token_choice
from routers.examples import DIM, built, live_edges, same_edges, told

from sparsemix import GLUExpertsConfig, MoEConfig, TokenInfo, TopKRouterConfig, balance_loss, load
from sparsemix.routers import TokenRoundingRouterConfig

MODES = ["nearest", "up", "down"]


def loads(routing, num_experts: int) -> list[int]:
    return [sum(e == expert for _, e in live_edges(routing)) for expert in range(num_experts)]


@given(st.integers(0, 9), st.integers(1, 5), st.integers(1, 4), st.sampled_from(MODES), st.booleans(), st.data())
def test_in_training_edges_are_those_of_a_loop(num_tokens, num_experts, tile, mode, normalize, data):
    least = 2 if normalize else 1
    if num_experts < least:
        return
    k = data.draw(st.integers(least, num_experts))
    config = TokenRoundingRouterConfig(k=k, tile=tile, rounding=mode, normalize=normalize)
    router, x_TD = told(config, numbers(1, num_tokens, num_experts))
    same_edges(router(x_TD), expert_choice.token_rounding(x_TD, k, tile, mode, normalize), x_TD)


@given(st.integers(0, 9), st.integers(2, 5), st.booleans(), st.data())
def test_in_evaluation_it_is_plain_top_k(num_tokens, num_experts, normalize, data):
    k = data.draw(st.integers(2, num_experts))
    config = TokenRoundingRouterConfig(k=k, normalize=normalize)
    router, x_TD = told(config, numbers(1, num_tokens, num_experts))
    routing = router.eval()(x_TD)
    same_edges(routing, token_choice.softmax_top_k(x_TD, k, normalize), x_TD)
    assert routing.edges_per_token == k


def test_a_worked_example():
    """Top 1 of 2 in tiles of 2, raw weights: loads 3 and 1 are rounded to the even 4 and 0, or up to 4 and 2."""
    probs_TE = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.3, 0.7]], dtype=torch.float64)
    own = {(0, 0): 0.9, (1, 0): 0.8, (2, 0): 0.6, (3, 1): 0.7}
    expected = {
        "nearest": {(0, 0): 0.9, (1, 0): 0.8, (2, 0): 0.6, (3, 0): 0.3},
        "down": {(0, 0): 0.9, (1, 0): 0.8},
        "up": {**own, (3, 0): 0.3, (2, 1): 0.4},
    }
    for mode, wanted in expected.items():
        config = TokenRoundingRouterConfig(k=1, tile=2, rounding=mode, normalize=False)
        router, x_TD = told(config, probs_TE.log())
        routing = router(x_TD)
        assert {edge: round(w.item(), 9) for edge, w in live_edges(routing).items()} == wanted
        assert set(zip(routing.token_N.tolist(), routing.expert_N.tolist())) == own.keys() | wanted.keys()


@pytest.mark.parametrize("mode", MODES)
def test_every_load_is_a_multiple_of_128_within_64_of_what_it_was(mode):
    config = TokenRoundingRouterConfig(k=2, rounding=mode)
    router, x_TD = built(config, 8), numbers(1, 1024, DIM) + 0.3 * numbers(2, DIM)
    before, after = loads(router.eval()(x_TD), 8), loads(router.train()(x_TD), 8)
    assert all(count % 128 == 0 for count in after)
    assert before != after
    for old, new in zip(before, after):
        low, high = {"nearest": (-64, 64), "up": (0, 127), "down": (-127, 0)}[mode]
        assert low <= new - old <= high


def test_no_load_exceeds_the_number_of_tokens():
    config = TokenRoundingRouterConfig(k=2, rounding="up", tile=128)
    routing = built(config, 3)(numbers(1, 100, DIM), TokenInfo(valid_T=torch.arange(100) < 70))
    assert loads(routing, 3) == [70, 70, 70]


def test_a_half_tile_goes_to_the_even_number_of_tiles():
    """Loads of 1 and 3 with tiles of 2 are half a tile and one and a half."""
    logits_TE = torch.tensor([[1.0, 0.0, -9.0]] * 1 + [[0.0, 1.0, -9.0]] * 3)
    router, x_TD = told(TokenRoundingRouterConfig(k=1, tile=2, normalize=False), logits_TE)
    assert loads(router(x_TD), 3) == [0, 4, 0]


@pytest.mark.parametrize("normalize", [True, False])
def test_own_tokens_are_dropped_lowest_first_and_others_added_highest_first(normalize):
    router = built(TokenRoundingRouterConfig(k=2, tile=16, normalize=normalize), 6)
    x_TD = numbers(1, 100, DIM)
    edges, probs_TE = live_edges(router(x_TD)), router(x_TD).probs_TE
    share_TE = torch.zeros_like(probs_TE)
    for t, p_E in enumerate(probs_TE):
        top = p_E.topk(2)
        share_TE[t, top.indices] = top.values / top.values.sum()
    dropped = added = 0
    for e in range(6):
        own = {t for t in range(100) if share_TE[t, e] > 0}
        here = {t for t, expert in edges if expert == e}
        assert own <= here or here <= own
        for out in own - here:
            assert all(share_TE[out, e] <= share_TE[t, e] for t in here)
        for new in here - own:
            assert all(probs_TE[t, e] <= probs_TE[new, e] for t in set(range(100)) - here)
            assert edges[new, e] == probs_TE[new, e]
        dropped, added = dropped + len(own - here), added + len(here - own)
    assert dropped > 0
    assert added > 0


def test_probabilities_too_small_for_float32_to_tell_p_minus_1_apart_are_still_ranked():
    """Expert 1 has one token of its own and may add the better of two, whose p are about 1e-9 and 2e-9."""
    logits_TE = torch.tensor([[-9.0, 9.0], [20.7, 0.0], [20.0, 0.0]])
    router, x_TD = told(TokenRoundingRouterConfig(k=1, tile=2, rounding="up", normalize=False), logits_TE)
    edges = live_edges(router.float()(x_TD.float()))
    assert (2, 1) in edges
    assert (1, 1) not in edges


def test_dropped_choices_count_in_losses_and_are_not_computed():
    moe = MoEConfig(
        num_experts=2,
        router=TokenRoundingRouterConfig(k=2, tile=8, rounding="down"),
        experts=GLUExpertsConfig(hidden=2),
    ).build(DIM)
    y_TD, routing = moe(torch.randn(7, DIM))
    assert (y_TD == 0).all()  # loads of 7 are less than a tile
    assert load(routing, 2).tolist() == [7, 7]
    losses = moe.router.config.losses(2)
    twin = TopKRouterConfig(k=2).build(DIM, 2)
    assert losses == TopKRouterConfig(k=2).losses(2)
    twin.load_state_dict(moe.router.state_dict())
    x_TD = torch.randn(7, DIM)
    same(balance_loss(moe.router(x_TD), losses), balance_loss(twin(x_TD), losses), tolerance=1e-6)


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match=r"k: one expert whose weight is normalised to 1 gives the router no gradient"):
        TokenRoundingRouterConfig(k=1)
    with pytest.raises(ValueError, match=r"^k: must be in 1..num_experts, got k=8 with num_experts=2; lower k"):
        TokenRoundingRouterConfig().build(DIM, 2)
    with pytest.raises(ValueError, match=r"tile: Input should be greater than or equal to 1"):
        TokenRoundingRouterConfig(tile=0)
