"""DeepSeek's routers: experts in a few groups only, as in V2 and in V3."""

import math

import pytest
import references
import torch
from cases import numbers, same
from hypothesis import given
from hypothesis import strategies as st
from routers.examples import DIM, built, gradient, same_edges, told

from sparsemix import SelectionBiasConfig, TokenInfo, TopKRouterConfig, balance_loss, load
from sparsemix.balance import device_loss, switch_loss
from sparsemix.routers import GroupLimitedRouterConfig


def third(**fields) -> GroupLimitedRouterConfig:
    """DeepSeek-V3's, smaller."""
    return GroupLimitedRouterConfig(**{"k": 2, "num_groups": 4, "keep_groups": 2, **fields})


def second(**fields) -> GroupLimitedRouterConfig:
    """DeepSeek-V2's, smaller."""
    plain = {"gate": "softmax_topk", "group_score": "best", "normalize": False, "selection_bias": None}
    return third(**{**plain, **fields})


@st.composite
def groupings(draw: st.DrawFn) -> tuple[int, int, int, int]:
    """Experts, groups of them, groups to keep, and experts a token that fit into these."""
    num_groups, size = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    keep = draw(st.integers(1, num_groups))
    return num_groups * size, num_groups, keep, draw(st.integers(1, keep * size))


@given(st.integers(0, 4), groupings(), st.booleans())
def test_with_softmax_the_groups_with_the_best_expert_win_and_weights_stay_as_they_are(num_tokens, sizes, ties):
    num_experts, num_groups, keep, k = sizes
    config = second(k=k, num_groups=num_groups, keep_groups=keep)
    router, x_TD = told(config, numbers(1, num_tokens, num_experts) * (0 if ties else 1))
    groups = references.token_choice.even_groups(num_experts, num_groups)
    routing = router(x_TD)
    if ties:  # who wins is the library's choice, that it keeps to the groups is not
        chosen = routing.expert_N.view(num_tokens, k) // (num_experts // num_groups)
        assert all(len(set(row)) <= keep for row in chosen.tolist())
        same(routing.weight_N, torch.full((num_tokens * k,), 1 / num_experts).double(), tolerance=1e-7)
        return
    same_edges(routing, references.token_choice.group_limited_softmax(x_TD, groups, keep, k), x_TD)


@given(st.integers(0, 4), groupings(), st.sampled_from(["never", "zero"]), st.sampled_from([0.0, 0.3, -2.0]))
def test_with_sigmoids_biased_scores_choose_and_plain_ones_weigh(num_tokens, sizes, outside, bias):
    num_experts, num_groups, keep, k = sizes
    if k == 1:
        return
    config = third(k=k, num_groups=num_groups, keep_groups=keep, outside=outside)
    router, x_TD = told(config, numbers(1, num_tokens, num_experts))
    bias_E = bias + 0.3 * numbers(2, num_experts)
    if outside == "zero":  # were a biased score negative, all experts outside would tie at 0
        bias_E = bias_E.abs()
    router.selection_bias.bias_E.copy_(bias_E)
    groups = references.token_choice.even_groups(num_experts, num_groups)
    masked = -math.inf if outside == "never" else 0.0
    routing = router(x_TD)
    edges = references.token_choice.group_limited_sigmoid(x_TD, bias_E, groups, keep, k, masked=masked)
    same_edges(routing, edges, x_TD)
    same(routing.probs_TE, x_TD.sigmoid() / x_TD.sigmoid().sum(-1, keepdim=True))


def test_eight_experts_in_four_groups_of_which_two_are_kept():
    """The best expert is alone in its group: V2 keeps that group, V3 the two whose two best sum to more."""
    logits_E = torch.tensor([[3.0, -9, 2, 1.9, 1.8, 1.7, -9, -9]])
    for config, expected in ((second(k=3), [0, 2, 3]), (third(k=3), [2, 3, 4])):
        router, x_TD = told(config, logits_E)
        assert router(x_TD).expert_N.tolist() == expected


def test_a_zero_for_experts_outside_beats_a_negative_score_inside():
    """Kept is the group of experts 0 and 1; the second of them has a biased score of sigmoid(0) - 1 = -0.5."""
    logits_E, bias_E = torch.tensor([[9.0, 0, 0, 0]]), torch.tensor([1.0, -1, -1, -1])
    chosen = {}
    for outside in ("never", "zero"):
        router, x_TD = told(third(num_groups=2, keep_groups=1, outside=outside), logits_E)
        router.selection_bias.bias_E.copy_(bias_E)
        chosen[outside] = set(router(x_TD).expert_N.tolist())
    assert chosen["never"] == {0, 1}
    assert chosen["zero"] < {0, 2, 3}


@pytest.mark.parametrize("bias", [None, SelectionBiasConfig()])
@pytest.mark.parametrize("gate", ["softmax_topk", "sigmoid"])
def test_one_group_is_plain_top_k(gate, bias):
    fields = {"k": 3, "gate": gate, "selection_bias": bias}
    limited = built(GroupLimitedRouterConfig(num_groups=1, keep_groups=1, **fields), 8)
    plain = built(TopKRouterConfig(**fields), 8)
    x_TD = numbers(1, 20, DIM)
    assert limited(x_TD).expert_N.equal(plain(x_TD).expert_N)
    assert limited(x_TD).weight_N.equal(plain(x_TD).weight_N)


def test_a_constant_on_the_bias_changes_nothing():
    router, x_TD = built(third(), 8), numbers(1, 20, DIM)
    before = router(x_TD)
    router.selection_bias.bias_E += 0.7
    after = router(x_TD)
    assert after.expert_N.equal(before.expert_N)
    assert after.weight_N.equal(before.weight_N)


def test_an_update_lowers_the_bias_of_overloaded_experts_by_exactly_the_rate():
    router = built(third(), 8)
    routing = router(numbers(1, 50, DIM))
    load_E = load(routing, 8)
    assert router.statistic(routing).equal(load_E)
    router.update(router.statistic(routing))
    same(router.selection_bias.bias_E, 0.001 * torch.sign(load_E.double().mean() - load_E))
    assert built(second(), 8).statistic(routing) is None


def test_the_bias_evens_the_load_of_skewed_logits():
    config = third(selection_bias=SelectionBiasConfig(rate=0.005))
    router, x_TD = told(config, 0.5 * numbers(1, 2_000, 8) + torch.linspace(-1, 1, 8))

    def violation() -> float:
        load_E = load(router(x_TD), 8).double()
        return float(load_E.max() / load_E.mean()) - 1

    assert violation() > 0.5
    for _ in range(300):
        router.update(router.statistic(router(x_TD)))
    assert violation() < 0.1


# --- losses ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 2)), min_size=1, max_size=6))
def test_the_loss_of_v3_is_that_of_each_sequence(tokens):
    valid, sequence = [v for v, _ in tokens], [b for _, b in tokens]
    config = third()
    router = built(config, 8)
    info = TokenInfo(valid_T=torch.tensor(valid), sequence_T=torch.tensor(sequence))
    routing = router(numbers(1, len(tokens), DIM), info)
    choices = routing.expert_N.view(-1, 2).tolist()
    expected = 1e-4 * references.deepseek_losses.sequence_loss(routing.probs_TE, choices, sequence, valid)
    loss = balance_loss(routing, config.losses(8))
    same(loss, expected)
    same(gradient(loss, router.weight_ED), gradient(expected, router.weight_ED))


@given(st.lists(st.booleans(), min_size=1, max_size=6))
def test_the_losses_of_v2_are_those_of_experts_devices_and_communication(valid):
    config = second()
    router = built(config, 8)
    routing = router(numbers(1, len(valid), DIM), TokenInfo(valid_T=torch.tensor(valid)))
    choices, devices = routing.expert_N.view(-1, 2).tolist(), references.token_choice.even_groups(8, 4)
    losses, probs_TE = references.deepseek_losses, routing.probs_TE
    expected = (
        0.003 * losses.expert_level_loss(probs_TE, choices, valid)
        + 0.05 * losses.device_level_loss(probs_TE, choices, devices, valid)
        + 0.02 * losses.communication_loss(probs_TE, choices, devices, 2, valid)
    )
    loss = balance_loss(routing, config.losses(8))
    same(loss, expected)
    same(gradient(loss, router.weight_ED), gradient(expected, router.weight_ED))


def test_with_a_device_for_each_expert_the_device_loss_is_that_of_experts():
    routing = built(second(), 8)(numbers(1, 9, DIM))
    same(device_loss(routing, 8), switch_loss(routing))


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_groups": 3}, r"^num_groups: must divide the 8 experts, got 3; choose a divisor"),
        ({"k": 5}, r"^k: must be at most the 4 experts of 2 groups, got 5; lower k or keep more groups"),
        ({"k": 9}, r"^k: must be in 1..num_experts, got k=9 with num_experts=8"),
        (
            {"keep_groups": 5},
            r"keep_groups: must be at most num_groups, got keep_groups=5 with num_groups=4; keep fewer",
        ),
        ({"k": 1}, r"k: one expert whose weight is normalised to 1 gives the router no gradient"),
    ],
)
def test_impossible_groups_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        third(**fields).build(DIM, 8)
