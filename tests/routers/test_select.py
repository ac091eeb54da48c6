"""From scores to choices, from choices to routings, and the chance of being selected under noise."""

import math

import pytest
import references
import torch
from cases import numbers, same
from hypothesis import given
from hypothesis import strategies as st

from sparsemix import TokenInfo
from sparsemix.routers.select import best, check_k, ragged_choice, selection_probability, token_choice


@given(st.integers(0, 6), st.integers(1, 5), st.integers(1, 4), st.data())
def test_token_choice_is_k_edges_a_token_in_token_order(num_tokens, num_experts, k, data):
    choice = st.lists(st.integers(0, num_experts - 1), min_size=k, max_size=k)
    choices = data.draw(st.lists(choice, min_size=num_tokens, max_size=num_tokens))
    valid = data.draw(st.none() | st.lists(st.booleans(), min_size=num_tokens, max_size=num_tokens))
    info = None if valid is None else TokenInfo(valid_T=torch.tensor(valid, dtype=torch.bool))
    weight_TK = numbers(1, num_tokens, k)
    routing = token_choice(torch.tensor(choices, dtype=torch.int64).view(-1, k), weight_TK, info, logits_TE=weight_TK)
    assert routing.token_N.tolist() == [t for t in range(num_tokens) for _ in range(k)]
    assert routing.expert_N.tolist() == [e for chosen in choices for e in chosen]
    assert routing.weight_N.equal(weight_TK.flatten())
    assert (routing.edges_per_token, routing.info, routing.logits_TE) == (k, info, weight_TK)
    live = None if valid is None else [is_valid for is_valid in valid for _ in range(k)]
    assert (None if routing.live_N is None else routing.live_N.tolist()) == live


@given(st.integers(0, 6), st.integers(1, 5), st.data())
def test_ragged_choice_is_the_edges_that_were_chosen_and_no_others(num_tokens, num_experts, data):
    row = st.lists(st.booleans(), min_size=num_experts, max_size=num_experts)
    chosen = data.draw(st.lists(row, min_size=num_tokens, max_size=num_tokens))
    valid = data.draw(st.none() | st.lists(st.booleans(), min_size=num_tokens, max_size=num_tokens))
    info = None if valid is None else TokenInfo(valid_T=torch.tensor(valid, dtype=torch.bool))
    weight_TE = numbers(1, num_tokens, num_experts).requires_grad_()
    chosen_TE = torch.tensor(chosen, dtype=torch.bool).view(num_tokens, num_experts)
    routing = ragged_choice(chosen_TE, weight_TE, info)
    expected = [(t, e) for t in range(num_tokens) for e in range(num_experts) if chosen[t][e]]
    assert list(zip(routing.token_N.tolist(), routing.expert_N.tolist())) == expected
    assert routing.weight_N.tolist() == [weight_TE[pair].item() for pair in expected]
    assert routing.edges_per_token is None
    assert (routing.live_N is None) == (valid is None)
    if valid is not None:
        assert routing.live_N.tolist() == [valid[t] for t, _ in expected]
    (grad_TE,) = torch.autograd.grad(routing.weight_N.sum(), weight_TE)
    assert grad_TE.equal(chosen_TE.double())


@pytest.mark.parametrize("k", [0, -1, 5])
def test_k_is_from_one_to_the_number_of_experts(k):
    with pytest.raises(ValueError, match=f"^k: must be in 1..num_experts, got k={k} with num_experts=4; lower k"):
        check_k(k, 4)


def test_the_best_come_first_and_carry_no_gradient():
    scores_TE = torch.tensor([[0.1, 0.9, 0.5], [0.3, 0.2, 0.1]], requires_grad=True)
    assert best(scores_TE, 2).tolist() == [[1, 2], [0, 1]]
    assert not best(scores_TE, 3).requires_grad


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
