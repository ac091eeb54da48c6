"""DeepSeek's losses by expert, device, communication and sequence, and how they agree at their limits."""

import pytest
from cases import numbers, same
from references.deepseek_losses import (
    communication_loss,
    device_level_loss,
    expert_factors,
    expert_level_loss,
    sequence_loss,
)
from references.losses import switch_loss
from worked_vectors.values import matrix

CHOICES = [[0, 1], [0, 2]]
PROBS = matrix([[0.4, 0.3, 0.2, 0.1], [0.6, 0.1, 0.2, 0.1]])
"""P = (.5, .2, .2, .1)."""
BOTH = [True, True]


def routed(num_tokens: int = 6, num_experts: int = 4):
    probs_TE = numbers(0, num_tokens, num_experts).softmax(-1)
    return probs_TE, probs_TE.topk(2).indices.tolist(), [True] * num_tokens


def test_by_expert():
    assert expert_factors(CHOICES, 4, BOTH) == [2, 1, 1, 0]  # 4 / (2 * 2) times (2, 1, 1, 0); the mean is 1
    same(expert_level_loss(PROBS, CHOICES, BOTH), matrix(2 * 0.5 + 0.2 + 0.2))


def test_by_expert_it_is_the_switch_loss_per_choice():
    same(expert_level_loss(*routed()), switch_loss(*routed()))


def test_by_device():
    # f' = (1.5, .5), P' = (.7, .3)
    same(device_level_loss(PROBS, CHOICES, [[0, 1], [2, 3]], BOTH), matrix(1.05 + 0.15))


def test_one_expert_a_device_is_by_expert():
    probs_TE, choices, valid = routed()
    devices = [[e] for e in range(4)]
    same(device_level_loss(probs_TE, choices, devices, valid), expert_level_loss(probs_TE, choices, valid))


def test_one_device_is_the_mean_factor():
    probs_TE, choices, valid = routed()
    same(device_level_loss(probs_TE, choices, [[0, 1, 2, 3]], valid), matrix(1.0))


def test_by_communication_a_token_counts_once_a_device():
    # two tokens come to device 0, one to device 1: f'' = 2 / (2 * 2) (2, 1) = (1, .5)
    same(communication_loss(PROBS, CHOICES, [[0, 1], [2, 3]], 2, BOTH), matrix(0.7 + 0.15))
    same(communication_loss(PROBS, CHOICES, [[0, 1], [2, 3]], 1, BOTH), 2 * matrix(0.85))


def test_sequences_are_balanced_each_by_itself():
    # each sequence collapses to its own expert: 2 each, though the batch is balanced
    probs_TE, choices, valid = matrix([[1, 0]] * 2 + [[0, 1]] * 2), [[0], [0], [1], [1]], [True] * 4
    same(sequence_loss(probs_TE, choices, [0, 0, 1, 1], valid), matrix(2.0))
    same(sequence_loss(probs_TE, choices, [0, 1, 1, 0], valid), matrix(1.0))


@pytest.mark.parametrize(("by_tokens", "expected"), [(False, (2 + 1) / 2), (True, (3 * 2 + 2 * 1) / 5)])
def test_sequences_of_different_lengths(by_tokens, expected):
    probs_TE = matrix([[1, 0]] * 3 + [[0.5, 0.5]] * 2)
    found = sequence_loss(probs_TE, [[0], [0], [0], [1], [0]], [7, 7, 7, 2, 2], [True] * 5, by_tokens)
    same(found, matrix(expected))


@pytest.mark.parametrize("by_tokens", [False, True])
def test_one_sequence_is_the_batch(by_tokens):
    probs_TE, choices, valid = routed()
    same(sequence_loss(probs_TE, choices, [0] * 6, valid, by_tokens), switch_loss(probs_TE, choices, valid))


def test_padding_has_no_part():
    probs_TE, choices, _ = routed(5)
    valid, rows, sequence = [True, False, True, True, False], [0, 2, 3], [0, 0, 0, 1, 2]
    devices, fewer = [[0, 1], [2, 3]], [choices[t] for t in (0, 2, 3)]
    for loss, arguments in (
        (expert_level_loss, ()),
        (device_level_loss, (devices,)),
        (communication_loss, (devices, 2)),
    ):
        found = loss(probs_TE, choices, *arguments, valid)
        same(found, loss(probs_TE[rows], fewer, *arguments, [True] * 3), loss.__name__)
    same(
        sequence_loss(probs_TE, choices, sequence, valid),
        sequence_loss(probs_TE[rows], fewer, [sequence[t] for t in rows], [True] * 3),
    )
