"""The z-loss."""

import math

import pytest
import torch
from balance.examples import agree, is_nothing, situations
from cases import numbers, same
from hypothesis import given
from references import losses

from sparsemix import Routing, z_loss

NONE_N = torch.zeros(0)


@given(situations())
def test_it_is_its_reference(situation):
    if not any(situation.valid):
        is_nothing(z_loss(situation.routing), situation.logits_TE)
        return
    agree(z_loss(situation.routing), losses.z_loss(situation.logits_TE, situation.valid), situation.logits_TE)


@pytest.mark.parametrize(("num_experts", "value"), [(4, 1.92181), (8, 4.32408), (64, 17.2963)])
def test_value_for_zero_logits(num_experts, value):
    zeros_TE = torch.zeros(5, num_experts)
    routing = Routing(NONE_N, NONE_N, NONE_N, logits_TE=zeros_TE, probs_TE=zeros_TE)
    assert z_loss(routing).item() == pytest.approx(math.log(num_experts) ** 2)
    assert z_loss(routing).item() == pytest.approx(value, rel=1e-5)


def test_gradient():
    """dL/dz_ti = (2 / T) lse_t p_ti."""
    logits_TE = numbers(0, 5, 4).requires_grad_()
    routing = Routing(NONE_N, NONE_N, NONE_N, logits_TE=logits_TE, probs_TE=logits_TE.softmax(-1))
    (grad,) = torch.autograd.grad(z_loss(routing), logits_TE)
    same(grad, (2 / 5 * logits_TE.logsumexp(-1, keepdim=True) * logits_TE.softmax(-1)).detach())


def test_it_is_finite_for_huge_logits():
    logits_TE = torch.full((2, 3), 1e4, requires_grad=True)
    routing = Routing(NONE_N, NONE_N, NONE_N, logits_TE=logits_TE, probs_TE=logits_TE.softmax(-1))
    z_loss(routing).backward()
    assert logits_TE.grad.isfinite().all()


def test_without_logits_it_is_refused():
    with pytest.raises(ValueError, match=r"^z_loss: needs routing.logits_TE, got None; use a router that gives it"):
        z_loss(Routing(NONE_N, NONE_N, NONE_N, probs_TE=torch.ones(1, 1)))
