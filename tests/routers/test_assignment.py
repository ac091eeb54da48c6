"""The balanced assignment: equal loads, and no other with equal loads is better."""

import math

import pytest
import torch
from cases import numbers, same
from hypothesis import given, settings
from hypothesis import strategies as st
from references.assignment import best_assignment

from sparsemix.routers.assignment import GRAIN, balanced_assignment, evened


def total(scores_TE: torch.Tensor, expert_T: torch.Tensor) -> float:
    return float(scores_TE.gather(1, expert_T[:, None]).sum())


def gain_of_the_best_exchange(scores_TE: torch.Tensor, expert_T: torch.Tensor) -> float:
    """The most that tokens can gain in sum by moving around in a circle of experts, each to the next one's place.

    An assignment is the best for its loads exactly if this is not above 0. If it is, circles run twice count twice.
    """
    num_experts = scores_TE.shape[1]
    gain_EE = torch.full((num_experts, num_experts), -math.inf, dtype=torch.float64)
    for e in range(num_experts):
        here = scores_TE[expert_T == e].double()
        if len(here):
            gain_EE[e] = (here - here[:, e : e + 1]).amax(0)
    gain_EE.fill_diagonal_(-math.inf)
    for through in range(num_experts):
        gain_EE = torch.maximum(gain_EE, gain_EE[:, through, None] + gain_EE[None, through])
    return float(gain_EE.diagonal().max())


@settings(max_examples=60)
@given(
    st.sampled_from([(2, 1), (2, 2), (3, 3), (4, 2), (6, 2), (6, 3), (8, 2), (5, 5)]), st.integers(0, 20), st.booleans()
)
def test_no_balanced_assignment_has_a_larger_sum(size, seed, ties):
    scores_TE = numbers(seed, *size)
    scores_TE = scores_TE.round() if ties else scores_TE
    expert_T = balanced_assignment(scores_TE)
    best = best_assignment(scores_TE)
    grain = float(scores_TE.max() - scores_TE.min()) / GRAIN
    assert torch.bincount(expert_T, minlength=size[1]).tolist() == [size[0] // size[1]] * size[1]
    assert total(scores_TE, expert_T) >= total(scores_TE, torch.tensor(best)) - size[0] * grain - 1e-12
    if not ties:
        assert expert_T.tolist() == list(best)


def in_grains(scores_TE: torch.Tensor) -> torch.Tensor:
    """Whole numbers from 0 to 2^16, for which the assignment is exact."""
    above_TE = scores_TE - scores_TE.min()
    return (above_TE / above_TE.max().clamp(min=1e-20) * GRAIN).round()


def clustered(num_tokens: int, num_experts: int) -> torch.Tensor:
    return numbers(1, 5, num_experts)[torch.arange(num_tokens) % 5]


SCORES = {
    "all different": lambda t, e: numbers(1, t, e),
    "experts of unequal appeal": lambda t, e: numbers(1, t, e) + 9 * numbers(2, e),
    "one expert far ahead": lambda t, e: 0.1 * numbers(1, t, e) + 9 * (torch.arange(e) == 0),
    "few kinds of tokens": clustered,
    "one kind of token": lambda t, e: numbers(1, 1, e).expand(t, e),
    "nearly one kind": lambda t, e: numbers(1, 1, e) + 1e-7 * numbers(2, t, e),
    "zeros": lambda t, e: torch.zeros(t, e),
    "on a line": lambda t, e: numbers(1, t, 1) * numbers(2, 1, e),
    "a few far away": lambda t, e: numbers(1, t, e) + 1e4 * (numbers(2, t, e) > 2.5),
}


@pytest.mark.parametrize("kind", SCORES)
@pytest.mark.parametrize(("num_tokens", "num_experts"), [(512, 16), (515, 16), (7, 16), (1, 4), (40, 1)])
def test_loads_differ_by_at_most_one_and_no_exchange_gains(kind, num_tokens, num_experts):
    scores_TE = in_grains(SCORES[kind](num_tokens, num_experts).double())
    expert_T = balanced_assignment(scores_TE)
    load_E = torch.bincount(expert_T, minlength=num_experts)
    assert load_E.sum() == num_tokens
    assert load_E.max() - load_E.min() <= 1
    assert gain_of_the_best_exchange(scores_TE, expert_T) <= 0


def test_the_experts_in_greatest_demand_have_one_token_more():
    scores_TE = numbers(1, 67, 8) + torch.tensor([0, 0, 5, 0, 0, 0, 5, 5]).double()
    load_E = torch.bincount(balanced_assignment(scores_TE), minlength=8)
    assert load_E.tolist() == [8, 8, 9, 8, 8, 8, 9, 9]


def test_a_worked_example():
    """All prefer expert 0; those two stay with it that would lose most elsewhere."""
    scores_TE = torch.tensor([[5.0, 4.0], [5.0, 1.0], [5.0, 3.0], [5.0, 0.0]])
    assert balanced_assignment(scores_TE).tolist() == [1, 0, 1, 0]


def test_scores_that_are_not_finite_count_as_the_least():
    scores_TE = torch.tensor([[math.nan, 1.0], [math.inf, 2.0], [3.0, 2.0], [-math.inf, 2.0]])
    filled_TE = scores_TE.nan_to_num(1.0, 1.0, 1.0)
    assert total(filled_TE, balanced_assignment(scores_TE)) == total(
        filled_TE, torch.tensor(best_assignment(filled_TE))
    )
    hopeless = balanced_assignment(torch.full((4, 2), math.nan))
    assert torch.bincount(hopeless).tolist() == [2, 2]


def test_no_token_is_assigned_where_there_is_none():
    assert balanced_assignment(torch.zeros(0, 3)).tolist() == []


def test_the_default_device_has_no_part_in_it():
    scores_TE = numbers(1, 20, 4)
    expected = balanced_assignment(scores_TE)
    with torch.device("meta"):
        assert balanced_assignment(scores_TE).equal(expected)


def test_the_same_scores_give_the_same_assignment_in_any_narrower_dtype_they_fit_in():
    scores_TE = numbers(1, 200, 8).bfloat16()
    assert balanced_assignment(scores_TE).equal(balanced_assignment(scores_TE.double()))


def test_a_bias_that_evens_out_gives_every_expert_the_same_mean_probability():
    logits_TE, bias_E = numbers(1, 50, 6) + 3 * numbers(2, 6), torch.zeros(6).double()
    for _ in range(200):
        bias_E = evened(logits_TE, bias_E)
    same((logits_TE + bias_E).softmax(-1).mean(0), torch.full((6,), 1 / 6, dtype=torch.float64))


def test_evening_out_survives_logits_whose_powers_overflow():
    logits_TE = torch.tensor([[1000.0, 0.0, -1000.0], [1000.0, 500.0, -1000.0]])
    bias_E = torch.zeros(3)
    for _ in range(5):
        bias_E = evened(logits_TE, bias_E)
    assert bias_E.isfinite().all()
