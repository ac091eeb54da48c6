"""Capacity, serving orders, and the chance of being selected under noise."""

import math

import pytest
import references
import torch
from cases import numbers, same
from hypothesis import given
from hypothesis import strategies as st

from sparsemix.routers.select import capacity, position_order, probability_order, selection_probability


@pytest.mark.parametrize(
    ("num_tokens", "k", "num_experts", "factor", "expected"),
    [
        (8, 1, 4, 1.0, 2),
        (8, 2, 4, 1.0, 4),  # k counts
        (8, 1, 4, 1.25, 3),  # rounded up
        (10, 1, 1, 1.1, 11),  # though 1.1 * 10 > 11 in floating point
        (1, 1, 64, 0.01, 1),  # never below one token
        (0, 2, 4, 1.0, 1),
    ],
)
def test_capacity(num_tokens, k, num_experts, factor, expected):
    assert capacity(num_tokens, k, num_experts, factor) == expected


def test_position_serves_all_first_choices_before_any_second():
    assert position_order(3, 2, torch.device("cpu")).tolist() == [0, 2, 4, 1, 3, 5]


def test_probability_serves_the_largest_gate_first_and_ties_by_position():
    assert probability_order(torch.tensor([0.2, 0.9, 0.2, 0.5, 0.9])).tolist() == [1, 4, 3, 0, 2]


@given(st.integers(0, 4), st.integers(2, 7), st.data())
def test_selection_probability_is_the_formula_with_its_gradient(num_tokens, num_experts, data):
    k = data.draw(st.integers(1, num_experts - 1))
    clean_TE = numbers(0, num_tokens, num_experts).requires_grad_()
    scale_TE = (numbers(1, num_tokens, num_experts).abs() + 0.1).requires_grad_()
    noisy_TE = clean_TE + numbers(2, num_tokens, num_experts) * scale_TE
    rows = [references.selection_probability(*row, k) for row in zip(clean_TE, noisy_TE, scale_TE)]
    expected = torch.stack(rows) if rows else 0 * clean_TE * scale_TE

    load_TE = selection_probability(clean_TE, noisy_TE, scale_TE, k)

    same(load_TE, expected)
    upstream = numbers(3, num_tokens, num_experts)
    for what, tensor in (("clean", clean_TE), ("scale", scale_TE)):
        (grad,) = torch.autograd.grad((load_TE * upstream).sum(), tensor, retain_graph=True)
        (wanted,) = torch.autograd.grad((expected * upstream).sum(), tensor, retain_graph=True)
        same(grad, wanted, f"gradient of {what}")


def test_selection_probability_of_two_experts():
    """k = 1, E = 2, noise of deviation s: P(x, 1) = Phi((z_1 - H_2) / s)."""
    clean_TE, scale = torch.tensor([[0.3, -0.2]], dtype=torch.float64), 0.7
    noisy_TE = torch.tensor([[0.1, 0.5]], dtype=torch.float64)
    load_TE = selection_probability(clean_TE, noisy_TE, torch.full_like(clean_TE, scale), 1)
    phi = [(1 + math.erf(z / scale / math.sqrt(2))) / 2 for z in (0.3 - 0.5, -0.2 - 0.1)]
    same(load_TE[0], torch.tensor(phi, dtype=torch.float64))


@pytest.mark.parametrize("k", [1, 2, 4])
def test_selection_probability_is_how_often_an_expert_is_chosen_when_its_own_noise_is_drawn_again(k):
    num_experts, draws = 5, 40_000
    clean_TE, scale_TE = numbers(0, 1, num_experts), numbers(1, 1, num_experts).abs() + 0.2
    noisy_TE = clean_TE + numbers(2, 1, num_experts) * scale_TE
    load_E = selection_probability(clean_TE, noisy_TE, scale_TE, k)[0]
    for i in range(num_experts):
        drawn = noisy_TE.repeat(draws, 1)
        drawn[:, i] = clean_TE[0, i] + numbers(3 + i, draws) * scale_TE[0, i]
        frequency = float((drawn.topk(k, dim=-1).indices == i).any(-1).double().mean())
        p = float(load_E[i])
        assert abs(frequency - p) <= 4 * math.sqrt(p * (1 - p) / draws) + 1e-4, (i, p, frequency)
