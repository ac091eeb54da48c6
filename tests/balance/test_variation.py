"""Importance and load: squared coefficients of variation."""

import math

import pytest
import torch
from balance.examples import agree, collapsed, is_nothing, situations, uniform
from cases import numbers
from hypothesis import given
from hypothesis import strategies as st
from references import losses

from sparsemix import HashRouterConfig, Routing, TokenInfo, importance_loss, load_loss
from sparsemix.balance import cv_squared, importance

NONE_N = torch.zeros(0)


@given(situations())
def test_importance_of_combine_weights_is_its_reference(situation):
    routing, leaf = situation.routing, situation.logits_TE
    if not any(choices and is_valid for choices, is_valid in zip(situation.choices, situation.valid)):
        is_nothing(importance_loss(routing), leaf)
        return
    expected = losses.importance_loss(situation.choices, situation.weights, situation.num_experts, situation.valid)
    agree(importance_loss(routing), expected, leaf)


@given(situations())
def test_importance_of_the_gate_distribution_is_its_reference(situation):
    actual, leaf = importance_loss(situation.routing, form="probs"), situation.logits_TE
    if not any(situation.valid):
        is_nothing(actual, leaf)
        return
    agree(actual, losses.gate_importance_loss(situation.routing.probs_TE, situation.valid), leaf)


@given(situations())
def test_load_is_its_reference(situation):
    routing, leaf = situation.routing, situation.logits_TE
    if not any(situation.valid):
        is_nothing(load_loss(routing), leaf)
        return
    agree(load_loss(routing), losses.load_loss(routing.load_TE, situation.valid), leaf)


def test_importance_needs_no_more_than_edges():
    """A hash router gives neither logits nor a distribution."""
    routing = HashRouterConfig(vocab_size=4, k=2).build(8, 4)(numbers(0, 3, 8), TokenInfo(id_T=torch.tensor([0, 1, 1])))
    assert importance(routing, 4).sum().item() == pytest.approx(1)


@given(st.integers(1, 4), st.integers(2, 3), st.integers(2, 3), st.data())
def test_the_products_of_a_hierarchy_give_its_importance(num_tokens, num_groups, group_size, data):
    """Appendix B of 2017: weights of a two-level mixture are products, of which this is the loss."""
    primary_TG = numbers(0, num_tokens, num_groups).softmax(-1)
    secondary_TGE = numbers(1, num_tokens, num_groups, group_size).softmax(-1)
    valid = data.draw(st.lists(st.booleans(), min_size=num_tokens, max_size=num_tokens).filter(any))
    importance_GE = losses.hierarchical_importance(primary_TG, secondary_TGE, valid)
    rows = [t for t in range(num_tokens) if valid[t]]
    product_TE = (primary_TG[..., None] * secondary_TGE)[rows].flatten(1)
    num_experts = num_groups * group_size
    routing = Routing(
        torch.arange(len(rows)).repeat_interleave(num_experts),
        torch.arange(num_experts).repeat(len(rows)),
        product_TE.flatten(),
        probs_TE=product_TE,
    )
    assert importance_loss(routing).item() == pytest.approx(losses.cv_squared(importance_GE.flatten()).item())


# --- stated values ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.0, 1e-8, 1e8])
def test_it_is_of_the_population_whatever_the_scale(scale):
    x_E = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64) * scale
    assert cv_squared(x_E).item() == pytest.approx(0.2, rel=1e-12)  # unbiased it would be 0.2667
    routing = Routing(torch.arange(4), torch.arange(4), x_E, probs_TE=torch.zeros(4, 4))
    assert importance_loss(routing).item() == pytest.approx(0.2, rel=1e-12)


def test_values_of_a_uniform_load_and_of_a_collapse():
    for form in ("weights", "probs"):
        assert importance_loss(uniform(4, 2), form=form).item() == pytest.approx(0, abs=1e-12)
        assert importance_loss(collapsed(4), form=form).item() == pytest.approx(3)
    assert load_loss(uniform(4, 2)).item() == pytest.approx(0, abs=1e-12)


def test_load_of_a_stated_vector():
    routing = Routing(NONE_N, NONE_N, NONE_N, load_TE=torch.tensor([[0.1, 0.2, 0.3, 0.4]]), probs_TE=torch.zeros(1, 4))
    assert load_loss(routing).item() == pytest.approx(0.2)


def test_nothing_varies_by_nothing():
    zero_E = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    assert cv_squared(zero_E).item() == 0
    assert cv_squared(torch.ones(1)).item() == 0
    assert math.isfinite(torch.autograd.grad(cv_squared(zero_E), zero_E)[0].sum().item())


def test_what_is_missing_is_named():
    routing = uniform(4, 2)
    with pytest.raises(ValueError, match=r"^load_loss: needs routing.load_TE, got None; use a router that gives it"):
        load_loss(routing._replace(load_TE=None))
    with pytest.raises(ValueError, match=r"^importance_loss: needs routing.probs_TE, got None; use a router"):
        importance_loss(routing._replace(probs_TE=None))
