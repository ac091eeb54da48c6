"""Balance between devices, and of what is sent to them."""

import pytest
import torch
from balance.examples import agree, is_nothing, situations, uniform
from hypothesis import given
from hypothesis import strategies as st
from references import deepseek_losses
from references.token_choice import even_groups

from sparsemix import Routing, switch_loss
from sparsemix.balance import CommunicationLoss, DeviceLoss, communication_loss, device_loss
from sparsemix.balance.devices import sent


def divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


@given(situations(), st.data())
def test_balance_of_devices_is_its_reference(situation, data):
    routing, leaf = situation.routing, situation.logits_TE
    num_devices = data.draw(st.sampled_from(divisors(situation.num_experts)))
    devices = even_groups(situation.num_experts, num_devices)
    if not any(situation.valid):
        is_nothing(device_loss(routing, num_devices), leaf)
        return
    expected = deepseek_losses.device_level_loss(routing.probs_TE, situation.choices, devices, situation.valid)
    agree(device_loss(routing, num_devices), expected, leaf)


@given(situations(), st.integers(1, 3), st.data())
def test_balance_of_communication_is_its_reference(situation, most, data):
    routing, leaf = situation.routing, situation.logits_TE
    num_devices = data.draw(st.sampled_from(divisors(situation.num_experts)))
    devices = even_groups(situation.num_experts, num_devices)
    if not any(situation.valid):
        is_nothing(communication_loss(routing, num_devices, most), leaf)
        return
    expected = deepseek_losses.communication_loss(routing.probs_TE, situation.choices, devices, most, situation.valid)
    agree(communication_loss(routing, num_devices, most), expected, leaf)


@given(situations(), st.data())
def test_a_token_is_sent_to_a_device_once_however_many_of_its_experts_are_there(situation, data):
    num_devices = data.draw(st.sampled_from(divisors(situation.num_experts)))
    devices = even_groups(situation.num_experts, num_devices)
    expected = [
        sum(any(e in device for e in row) for row, is_valid in zip(situation.choices, situation.valid) if is_valid)
        for device in devices
    ]
    assert sent(situation.routing, num_devices).tolist() == expected


# --- stated values ---------------------------------------------------------------------------------------------------


@given(situations())
def test_with_a_device_an_expert_it_is_the_switch_loss(situation):
    agree(device_loss(situation.routing, situation.num_experts), switch_loss(situation.routing), situation.logits_TE)


@given(situations())
def test_with_one_device_it_is_one_and_asks_for_nothing(situation):
    """The mean over experts of E f_i is 1, and so is the sum of P."""
    edges = [row for row, is_valid in zip(situation.choices, situation.valid) if is_valid and row]
    loss = device_loss(situation.routing, 1)
    assert loss.item() == pytest.approx(1.0 if edges else 0.0)
    assert not situation.logits_TE.numel() or torch.autograd.grad(loss, situation.logits_TE)[0].abs().max() < 1e-12


@pytest.mark.parametrize("num_devices", [1, 2, 4, 8])
def test_both_are_one_for_a_uniform_load(num_devices):
    routing = uniform(8, 1)
    assert device_loss(routing, num_devices).item() == pytest.approx(1)
    assert communication_loss(routing, num_devices, 1).item() == pytest.approx(1)


def test_tokens_that_go_to_m_devices_each_all_equally_often_cost_one():
    """Eight experts on four devices; token t goes to one expert on each of devices t and t + 1."""
    choices = torch.tensor([[2 * d, 2 * ((d + 1) % 4)] for d in range(4)])
    probs_TE = torch.full((4, 8), 1 / 8)
    routing = Routing(torch.arange(4).repeat_interleave(2), choices.flatten(), torch.ones(8), probs_TE=probs_TE)
    assert communication_loss(routing, num_devices=4, devices_per_token=2).item() == pytest.approx(1)


def test_a_device_that_all_tokens_go_to_costs_as_many_times_as_there_are_devices():
    probs_TE = torch.tensor([[0.5, 0.5, 0.0, 0.0]] * 3)
    routing = Routing(torch.arange(3), torch.tensor([0, 1, 0]), torch.ones(3), probs_TE=probs_TE, edges_per_token=1)
    assert device_loss(routing, 2).item() == pytest.approx(2)
    assert communication_loss(routing, 2, 1).item() == pytest.approx(2)


# --- refusals --------------------------------------------------------------------------------------------------------


def test_devices_that_do_not_divide_the_experts_are_refused():
    for loss in (DeviceLoss(num_devices=3), CommunicationLoss(num_devices=3, devices_per_token=1)):
        with pytest.raises(ValueError, match=r"^num_devices: must divide the 8 experts, got 3; choose a divisor"):
            loss(uniform(8, 1))
    with pytest.raises(ValueError, match=r"^DeviceLoss: num_devices: required, got nothing"):
        DeviceLoss()
    with pytest.raises(ValueError, match=r"^device_loss: needs routing.probs_TE, got None"):
        device_loss(uniform(8, 1)._replace(probs_TE=None), 2)
    with pytest.raises(ValueError, match=r"^communication_loss: needs routing.probs_TE, got None"):
        communication_loss(uniform(8, 1)._replace(probs_TE=None), 2, 1)
