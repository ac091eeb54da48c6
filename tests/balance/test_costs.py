"""Balance among experts that do not cost the same, and null experts as one bucket."""

import pytest
import torch
from balance.examples import agree, chosen, is_nothing, situations, uniform
from hypothesis import given
from hypothesis import strategies as st
from references import losses

from sparsemix import switch_loss
from sparsemix.balance import CostLoss, NullLoss, cost_loss, null_loss

COSTS = [1.0, 0.5, 0.0, 2.0, 0.75, 3.0]


@given(situations())
def test_costs_are_the_etas_of_moe_plus_plus(situation):
    """And no factor E."""
    routing, leaf = situation.routing, situation.logits_TE
    costs = COSTS[: situation.num_experts]
    actual = CostLoss(costs=tuple(costs))(routing)
    if not any(situation.valid):
        is_nothing(actual, leaf)
        return
    agree(actual, losses.weighted_loss(routing.probs_TE, situation.choices, costs, situation.valid), leaf)


@given(situations())
def test_with_e_times_the_widths_they_are_the_penalty_of_hmoe(situation):
    routing, leaf = situation.routing, situation.logits_TE
    widths = COSTS[: situation.num_experts]
    actual = cost_loss(routing, situation.num_experts * torch.tensor(widths, dtype=torch.float64))
    if not any(situation.valid):
        is_nothing(actual, leaf)
        return
    agree(actual, losses.parameter_penalty(routing.probs_TE, situation.choices, widths, situation.valid), leaf)


@given(situations(min_experts=2), st.data())
def test_null_experts_have_the_mean_share_of_them_all(situation, data):
    routing, leaf = situation.routing, situation.logits_TE
    num_null = data.draw(st.integers(1, situation.num_experts - 1))
    nulls = list(range(situation.num_experts))[-num_null:]
    if not any(situation.valid):
        is_nothing(null_loss(routing, num_null), leaf)
        return
    expected = losses.null_expert_loss(routing.probs_TE, situation.choices, nulls, situation.valid, per="choice")
    agree(null_loss(routing, num_null), expected, leaf)


# --- stated values ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2])
def test_equal_widths_cost_the_width_times_k_times_the_switch_loss(k):
    routing = uniform(4, k)
    assert cost_loss(routing, torch.full((4,), 4 * 7.0)).item() == pytest.approx(7 * k * switch_loss(routing).item())


def test_costs_of_one_are_k_over_e_for_a_uniform_load():
    assert cost_loss(uniform(8, 2), torch.ones(8)).item() == pytest.approx(2 / 8)


def test_where_choices_fall_among_nulls_makes_no_difference():
    probs = [[0.1, 0.2, 0.3, 0.4]] * 4
    even, uneven = chosen([0, 1, 2, 3], probs), chosen([0, 1, 3, 3], probs)
    assert null_loss(even, 2).item() == pytest.approx(null_loss(uneven, 2).item(), rel=1e-12)
    assert switch_loss(even).item() < switch_loss(uneven).item()


@given(situations(min_experts=2))
def test_one_null_expert_is_an_expert_like_any_other(situation):
    agree(null_loss(situation.routing, 1), switch_loss(situation.routing), situation.logits_TE)


# --- refusals --------------------------------------------------------------------------------------------------------


def test_costs_are_one_an_expert():
    with pytest.raises(ValueError, match=r"^costs: must be 4 numbers, one an expert, got 3"):
        CostLoss(costs=(1.0, 1.0, 1.0))(uniform(4, 1))
    with pytest.raises(ValueError, match=r"^cost_loss: needs routing.probs_TE, got None"):
        CostLoss(costs=(1.0,))(uniform(4, 1)._replace(probs_TE=None))


@pytest.mark.parametrize("num_null", [4, 5])
def test_not_all_experts_are_null(num_null):
    with pytest.raises(ValueError, match=rf"^num_null: must be in 1..3, got {num_null}"):
        NullLoss(num_null=num_null)(uniform(4, 1))
    with pytest.raises(ValueError, match=r"^NullLoss: num_null: Input should be greater than or equal to 1, got 0"):
        NullLoss(num_null=0)
