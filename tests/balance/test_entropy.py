"""Entropies: of each token's distribution, and of a modality's mean."""

import math

import pytest
import torch
from balance.examples import agree, is_nothing, situations
from cases import same
from hypothesis import given
from hypothesis import strategies as st
from references import losses

from sparsemix import Routing, TokenInfo
from sparsemix.balance import GlobalEntropyLoss, global_entropy_loss, local_entropy_loss

NONE_N = torch.zeros(0)
MODALITIES = st.none() | st.integers(0, 2)


def of_probs(probs: list[list[float]], modality: list[int] | None = None) -> Routing:
    probs_TE = torch.tensor(probs, dtype=torch.float64).requires_grad_()
    info = None if modality is None else TokenInfo(modality_T=torch.tensor(modality))
    return Routing(NONE_N, NONE_N, NONE_N, probs_TE=probs_TE, info=info)


def is_there(situation, modality) -> bool:
    """Whether it has a valid token."""
    return any(v and modality in (None, m) for v, m in zip(situation.valid, situation.modality))


@given(situations(), MODALITIES)
def test_the_local_loss_is_its_reference(situation, modality):
    actual, leaf = local_entropy_loss(situation.routing, modality), situation.logits_TE
    if not is_there(situation, modality):
        is_nothing(actual, leaf)
        return
    probs_TE, valid = situation.routing.probs_TE, situation.valid
    if modality is None:
        agree(actual, losses.entropy_loss(probs_TE, valid), leaf)
    else:
        agree(actual, losses.limoe_local_loss(probs_TE, situation.modality, modality, valid), leaf)


@given(situations(), MODALITIES, st.sampled_from([1.1, 1.7, 2.0, 5.0]))
def test_the_global_loss_is_its_reference(situation, modality, least):
    actual, leaf = global_entropy_loss(situation.routing, least, modality), situation.logits_TE
    if not is_there(situation, modality):
        is_nothing(actual, leaf)
        return
    kinds = [0] * len(situation.valid) if modality is None else situation.modality
    expected = losses.limoe_global_loss(
        situation.routing.probs_TE, kinds, modality or 0, situation.valid, math.log(least)
    )
    agree(actual, expected, leaf)


# --- stated values ---------------------------------------------------------------------------------------------------


def test_local_values_of_sure_and_unsure_tokens():
    assert local_entropy_loss(of_probs([[0.0, 1.0, 0.0]] * 3)).item() == 0
    assert local_entropy_loss(of_probs([[0.25] * 4] * 3)).item() == pytest.approx(math.log(4))
    mixed = of_probs([[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]], modality=[0, 1, 0])
    assert local_entropy_loss(mixed).item() == pytest.approx(math.log(2) / 3)
    assert local_entropy_loss(mixed, modality=0).item() == 0
    assert local_entropy_loss(mixed, modality=1).item() == pytest.approx(math.log(2))


def test_the_global_hinge_is_the_entropy_that_lacks_and_rests_where_there_is_enough():
    """Sure tokens spread over two experts have a mean of entropy ln 2."""
    spread = of_probs([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    assert global_entropy_loss(spread, 3).item() == pytest.approx(math.log(3 / 2))
    assert global_entropy_loss(spread, 2).item() == pytest.approx(0, abs=1e-15)
    resting = global_entropy_loss(spread, 1.5)
    assert resting.item() == 0
    assert not torch.autograd.grad(resting, spread.probs_TE)[0].any()
    together = of_probs([[1.0, 0.0, 0.0]] * 2)
    assert global_entropy_loss(together, 3).item() == pytest.approx(math.log(3))


def test_the_gradient_of_the_global_hinge():
    """Mean (.75, .25): dL/dp_ti = (1 + ln mean_i) / T."""
    routing = of_probs([[1.0, 0.0], [0.5, 0.5]])
    (grad_TE,) = torch.autograd.grad(global_entropy_loss(routing, 2), routing.probs_TE)
    expected = torch.tensor([1 + math.log(0.75), 1 + math.log(0.25)], dtype=torch.float64) / 2
    same(grad_TE, expected.expand(2, 2))


@pytest.mark.parametrize("loss", [local_entropy_loss, lambda routing: global_entropy_loss(routing, 2)])
def test_a_probability_of_zero_has_a_finite_gradient(loss):
    routing = of_probs([[1.0, 0.0, 0.0]])
    assert torch.autograd.grad(loss(routing), routing.probs_TE)[0].isfinite().all()


# --- refusals --------------------------------------------------------------------------------------------------------


def test_a_modality_that_nobody_told_of_is_refused():
    routing = of_probs([[0.5, 0.5]])
    for loss in (lambda: local_entropy_loss(routing, 0), lambda: global_entropy_loss(routing, 2, 0)):
        with pytest.raises(ValueError, match=r"^info.modality_T: is needed by a loss of one modality, got None; pass"):
            loss()


def test_one_expert_cannot_be_the_least():
    with pytest.raises(ValueError, match=r"^GlobalEntropyLoss: min_experts: Input should be greater than 1, got 1"):
        GlobalEntropyLoss(min_experts=1)


def test_without_probabilities_they_are_refused():
    nothing = Routing(NONE_N, NONE_N, NONE_N)
    with pytest.raises(ValueError, match=r"^local_entropy_loss: needs routing.probs_TE, got None"):
        local_entropy_loss(nothing)
    with pytest.raises(ValueError, match=r"^global_entropy_loss: needs routing.probs_TE, got None"):
        global_entropy_loss(nothing, 2)
