"""Rules without a gradient: selection biases, ReMoE's coefficient, and the violation that measures them."""

import pytest
import torch
from cases import numbers, same
from references.edges import choices_of
from references.losses import counts
from references.token_choice import biased_top_k
from references.updates import bias_by_sign, bias_by_violation, coefficient_step, max_violation, zero_fraction
from worked_vectors.values import matrix


def test_a_bias_moves_by_the_rate_against_the_load():
    bias_E = bias_by_sign(matrix([0.5, 0, 0, 1]), [5, 2, 3, 2], 0.001)  # mean 3
    same(bias_E, matrix([0.499, 0.001, 0, 1.001]))


def test_a_bias_moves_by_the_violation():
    same(bias_by_violation(torch.zeros(4).double(), [5, 2, 3, 2], 0.01), matrix([-0.02, 0.01, 0, 0.01]))
    same(bias_by_violation(torch.zeros(2).double(), [0.75, 0.25], 1.0), matrix([-0.25, 0.25]), "shares of tokens")


def test_a_balanced_load_moves_nothing():
    for step in (bias_by_sign, bias_by_violation):
        same(step(matrix([1, 2]), [4, 4], 0.1), matrix([1, 2]))


@pytest.mark.parametrize(
    ("step", "rate", "multiplicative"),
    [(bias_by_sign, 0.01, False), (bias_by_violation, 0.002, False), (bias_by_sign, 0.01, True)],
)
def test_each_rule_balances_a_skewed_router(step, rate, multiplicative):
    scores_TE = torch.sigmoid(numbers(0, 120, 4) + matrix([2, 0, 0, -1]))
    bias_E = torch.full((4,), float(multiplicative)).double()

    def load_of(bias_E: torch.Tensor) -> list[int]:
        edges = biased_top_k(scores_TE, bias_E, 1, normalize=False, multiplicative=multiplicative)
        return counts(choices_of(edges, 120), 4, [True] * 120)

    assert max_violation([load_of(bias_E)]) > 1
    for number in range(1, 101):
        bias_E = step(bias_E, load_of(bias_E), rate)
        if step is bias_by_sign:
            assert (bias_E - float(multiplicative)).abs().max().item() <= rate * number + 1e-12
    assert max_violation([load_of(bias_E)]) <= 0.1


def test_the_violation_is_the_excess_of_the_fullest_expert():
    assert max_violation([[4, 2, 1, 1]]) == 1.0
    assert max_violation([[3, 3, 3]]) == 0.0
    assert max_violation([[6, 0, 0]]) == 2.0, "E - 1 at most"


def test_over_many_batches_violations_may_cancel():
    assert max_violation([[4, 0]]) == max_violation([[0, 4]]) == 1.0
    assert max_violation([[4, 0], [0, 4]]) == 0.0


def test_remoes_sparsity_counts_closed_gates_of_valid_tokens():
    logits_TE = matrix([[-1, 0, 2, 3], [1, 1, 1, 1]])
    assert zero_fraction(logits_TE, [True, True]) == 0.25
    assert zero_fraction(logits_TE, [True, False]) == 0.5


def test_remoes_coefficient_rises_while_too_many_gates_are_open():
    assert coefficient_step(1e-8, 0.5, 2, 8) == 1e-8 * 1.2  # target 1 - 2 / 8
    assert coefficient_step(1e-8, 0.9, 2, 8) == 1e-8 / 1.2
    assert coefficient_step(1e-8, 0.75, 2, 8) == 1e-8 / 1.2, "strictly below"
