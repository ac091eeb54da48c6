"""Token distributions: which tokens remain, with what probability, and that draws follow it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsemix.inference import sample, token_probs

logit_rows = st.lists(st.integers(-20, 20).map(lambda n: n / 4), min_size=2, max_size=12, unique=True)


def ranked(logits):
    return sorted(range(len(logits)), key=lambda token: -logits[token])


@given(logit_rows, st.integers(1, 15))
def test_top_k_keeps_the_k_best_in_proportion(logits, k):
    probs_V = token_probs(torch.tensor([logits]), top_k=k)[0]
    kept = ranked(logits)[:k]
    assert set(probs_V.nonzero()[:, 0].tolist()) == set(kept)
    expected = torch.tensor([logits[token] for token in kept], dtype=torch.float64).softmax(0)
    torch.testing.assert_close(probs_V[kept], expected, atol=1e-12, rtol=0)


@given(logit_rows, st.floats(0.05, 0.99), st.none() | st.integers(1, 12))
def test_top_p_keeps_the_fewest_that_reach_p(logits, p, k):
    full_V = token_probs(torch.tensor([logits]), top_k=k)[0].tolist()
    kept, total = [], 0.0
    for token in ranked(logits):
        if total >= p:
            break
        if full_V[token] > 0:
            kept.append(token)
        total += full_V[token]
    probs_V = token_probs(torch.tensor([logits]), top_p=p, top_k=k)[0]
    assert set(probs_V.nonzero()[:, 0].tolist()) == set(kept)
    torch.testing.assert_close(probs_V.sum(), torch.tensor(1.0, dtype=torch.float64))


@given(logit_rows, st.floats(0.1, 5))
def test_temperature_divides_the_logits(logits, temperature):
    probs_V = token_probs(torch.tensor([logits], dtype=torch.float64), temperature=temperature)[0]
    expected = (torch.tensor(logits, dtype=torch.float64) / temperature).softmax(0)
    torch.testing.assert_close(probs_V, expected)


@given(logit_rows)
def test_temperature_zero_takes_the_best(logits):
    probs_V = token_probs(torch.tensor([logits]), temperature=0)[0]
    assert probs_V.argmax() == ranked(logits)[0]
    assert probs_V.max() == 1


def test_top_k_keeps_k_of_equals():
    assert token_probs(torch.zeros(1, 9), top_k=3).count_nonzero() == 3


def test_draws_follow_the_probabilities():
    probs_BV = token_probs(torch.tensor([[0.0, 1.0, -1.0, 2.0, -9.0]]), temperature=0.8, top_k=4)
    count = 20_000
    uniform_B = torch.rand(count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    token_B = sample(probs_BV.expand(count, -1), uniform_B)
    seen_V = token_B.bincount(minlength=5).double()
    assert seen_V[4] == 0
    expected_V = count * probs_BV[0, :4]
    chi_square = ((seen_V[:4] - expected_V) ** 2 / expected_V).sum()
    assert chi_square < 16.27  # 3 degrees of freedom, one in a thousand
    unlike_V = count * token_probs(torch.tensor([[0.0, 1.0, -1.0, 2.0]]))[0]
    assert ((seen_V[:4] - unlike_V) ** 2 / unlike_V).sum() > 100  # the test can tell another temperature


def test_the_ends_of_the_unit_interval_reach_only_possible_tokens():
    probs_BV = torch.tensor([[0.0, 0.3, 0.7, 0.0]], dtype=torch.float64)
    assert sample(probs_BV, torch.tensor([0.0], dtype=torch.float64)).tolist() == [1]
    assert sample(probs_BV, torch.tensor([1 - 2**-53], dtype=torch.float64)).tolist() == [2]
    assert sample(probs_BV, torch.tensor([1.0], dtype=torch.float64)).tolist() == [2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1}, "temperature: must be at least 0, got -1"),
        ({"top_k": 0}, "top_k: must be at least 1, got 0"),
        ({"top_p": 0.0}, r"top_p: must be in \(0, 1\], got 0.0"),
        ({"top_p": 1.5}, r"top_p: must be in \(0, 1\], got 1.5"),
    ],
)
def test_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        token_probs(torch.zeros(1, 3), **settings)
