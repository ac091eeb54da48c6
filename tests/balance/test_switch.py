"""The switch loss in its four forms."""

import pytest
import torch
from balance.examples import agree, chosen, collapsed, is_nothing, situations, uniform
from cases import same
from hypothesis import given
from references import deepseek_losses, losses

from sparsemix import SwitchLoss, importance_loss, load, switch_loss

FORMS = ["all", "all_times_k", "first", "gshard"]
REFERENCES = {
    "all": losses.switch_loss,
    "all_times_k": lambda probs_TE, choices, valid: losses.switch_loss(probs_TE, choices, valid, per="token"),
    "first": losses.first_choice_loss,
    "gshard": losses.gshard_loss,
}


@pytest.mark.parametrize("form", FORMS)
@given(situation=situations(ragged=False))
def test_each_form_is_its_reference(form, situation):
    routing, leaf = situation.routing, situation.logits_TE
    actual = switch_loss(routing, form=form)
    if not any(situation.valid):
        is_nothing(actual, leaf)
        return
    agree(actual, REFERENCES[form](routing.probs_TE, situation.choices, situation.valid), leaf)


@given(situations(ragged=True))
def test_of_ragged_choices_it_is_their_shares(situation):
    """DeepSeek's expert-level loss too, with K T read as the number of choices."""
    routing, leaf = situation.routing, situation.logits_TE
    if not any(situation.valid):
        is_nothing(switch_loss(routing), leaf)
        return
    for reference in (losses.switch_loss, deepseek_losses.expert_level_loss):
        agree(switch_loss(routing), reference(routing.probs_TE, situation.choices, situation.valid), leaf)


@given(situations(ragged=False))
def test_with_the_load_of_a_larger_batch(situation):
    """Global-batch balance: f of all micro-batches, P of one's own."""
    if not any(situation.valid):
        return
    whole = [7, 1, 2, 0, 5, 3][: situation.num_experts]
    expected = losses.global_batch_loss(situation.routing.probs_TE, situation.valid, whole)
    agree(switch_loss(situation.routing, torch.tensor(whole)), expected, situation.logits_TE)


# --- stated values ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_experts", [2, 4, 64])
@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize(
    ("form", "value"),
    [
        ("all", lambda num_experts, k: 1),  # MegaBlocks, OLMoE, Megatron, SonicMoE, DeepSeek
        ("all_times_k", lambda num_experts, k: k),  # flaxformer, transformers' Mixtral
        ("first", lambda num_experts, k: 1),  # Switch, Mesh TensorFlow
        ("gshard", lambda num_experts, k: 1 / num_experts**2),  # GShard's algorithm 1
    ],
)
def test_value_of_a_uniform_load(num_experts, k, form, value):
    assert switch_loss(uniform(num_experts, k), form=form).item() == pytest.approx(value(num_experts, k))


@pytest.mark.parametrize("num_experts", [2, 4, 64])
@pytest.mark.parametrize(("form", "times"), [("all", 1), ("all_times_k", 1), ("first", 1), ("gshard", 64**-2)])
def test_value_of_a_collapse_is_the_number_of_experts_times_as_much(num_experts, form, times):
    times = num_experts**-2 if form == "gshard" else times
    assert switch_loss(collapsed(num_experts), form=form).item() == pytest.approx(num_experts * times)


def test_first_choices_alone_miss_a_collapse_of_second_ones():
    """First choices even, second choices all at expert 0."""
    routing = uniform(4, 2)._replace(expert_N=torch.tensor([0, 0, 1, 0, 2, 0, 3, 0]))
    probs_TE = torch.tensor([[0.7, 0.1, 0.1, 0.1]] * 4, dtype=torch.float64)
    skewed = routing._replace(probs_TE=probs_TE)
    assert switch_loss(skewed, form="first").item() == pytest.approx(1)
    assert switch_loss(skewed).item() == pytest.approx(4 * (5 / 8 * 0.7 + 3 / 8 * 0.1))


def test_it_can_fall_below_one():
    """60% of the tokens with p = (.51, .49), 40% with p = (0, 1): f = (.6, .4), P = (.306, .694)."""
    routing = chosen([0] * 6 + [1] * 4, [[0.51, 0.49]] * 6 + [[0.0, 1.0]] * 4)
    assert switch_loss(routing).item() == pytest.approx(2 * (0.6 * 0.306 + 0.4 * 0.694))
    assert switch_loss(routing).item() == pytest.approx(0.922, abs=1e-3)


def test_it_counts_before_capacity_dropping():
    """Counting live edges only would make a collapsed router look better than a balanced one: 0.78 for 2.95."""
    probs = [[0.7375, 0.0875, 0.0875, 0.0875]] * 16
    routing = chosen([0] * 16, probs, live_N=torch.arange(16) < 4)
    assert switch_loss(routing).item() == pytest.approx(2.95)
    assert importance_loss(routing).item() == pytest.approx(3.0)  # all weight on one of four
    assert load(routing, 4).tolist() == [16, 0, 0, 0]


def test_it_holds_the_shares_constant():
    """dL/dp_ti = E f_i / T."""
    routing = chosen([0, 0, 2], [[0.5, 0.2, 0.3], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8]])
    (grad,) = torch.autograd.grad(switch_loss(routing), routing.probs_TE)
    same(grad, torch.tensor([[2 / 3, 0, 1 / 3]], dtype=torch.float64).expand(3, 3))


def test_two_halves_each_collapsed_to_another_expert_are_balanced_as_a_whole():
    halves = [chosen([0] * 4, [[1.0, 0.0]] * 4), chosen([1] * 4, [[0.0, 1.0]] * 4)]
    load_E = sum(load(half, 2) for half in halves)
    assert [switch_loss(half).item() for half in halves] == [2, 2]
    assert sum(switch_loss(half, load_E).item() for half in halves) / 2 == 1


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["all_times_k", "first", "gshard"])
def test_a_form_that_counts_choices_needs_as_many_of_each_token(form):
    ragged = uniform(4, 2)._replace(edges_per_token=None)
    with pytest.raises(ValueError, match=r"^form: needs a router of k edges a token, got a ragged routing; use form="):
        switch_loss(ragged, form=form)


def test_without_probabilities_it_is_refused():
    with pytest.raises(ValueError, match=r"^switch_loss: needs routing.probs_TE, got None; use a router that gives it"):
        switch_loss(uniform(4, 2)._replace(probs_TE=None))
    with pytest.raises(ValueError, match=r"^SwitchLoss: form: Input should be 'all', .*got 'second'"):
        SwitchLoss(form="second")
