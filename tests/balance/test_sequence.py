"""Balance within each sequence."""

import pytest
import torch
from balance.examples import agree, chosen, collapsed, is_nothing, situations
from hypothesis import given
from references import deepseek_losses

from sparsemix import TokenInfo, sequence_loss, switch_loss


@given(situations())
def test_it_is_its_reference(situation):
    routing, leaf = situation.routing, situation.logits_TE
    if not any(situation.valid):
        is_nothing(sequence_loss(routing), leaf)
        return
    probs_TE, choices = routing.probs_TE, situation.choices
    agree(
        sequence_loss(routing),
        deepseek_losses.sequence_loss(probs_TE, choices, situation.sequence, situation.valid),
        leaf,
    )


def test_two_sequences_each_collapsed_to_another_expert_are_balanced_together_but_not_each():
    expert, probs = [0, 0, 1, 1], [[1.0, 0.0]] * 2 + [[0.0, 1.0]] * 2
    routing = chosen(expert, probs, info=TokenInfo(sequence_T=torch.tensor([7, 7, 3, 3])))
    assert switch_loss(routing).item() == 1
    assert sequence_loss(routing).item() == 2


def test_a_sequence_of_padding_alone_does_not_count():
    info = TokenInfo(sequence_T=torch.tensor([0, 0, 1, 1]), valid_T=torch.tensor([True, True, False, False]))
    assert sequence_loss(collapsed(4, num_tokens=4)._replace(info=info)).item() == 4


def test_one_sequence_is_the_switch_loss():
    routing = chosen([0, 2, 2], [[0.5, 0.2, 0.3], [0.1, 0.1, 0.8], [0.2, 0.2, 0.6]])
    known = routing._replace(info=TokenInfo(sequence_T=torch.zeros(3, dtype=torch.int64)))
    assert sequence_loss(known).item() == pytest.approx(switch_loss(routing).item(), rel=1e-12)


def test_without_sequences_it_is_refused():
    routing = collapsed(4)
    for info in (None, TokenInfo()):
        with pytest.raises(ValueError, match=r"^info.sequence_T: is needed by sequence_loss, got None; pass info="):
            sequence_loss(routing._replace(info=info))
    with pytest.raises(ValueError, match=r"^sequence_loss: needs routing.probs_TE, got None"):
        sequence_loss(routing._replace(probs_TE=None))
