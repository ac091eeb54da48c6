"""From logits to the next token: temperature, top-k, top-p, and a draw that is the same on every device."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsemix.checks import check


def check_sampling(temperature: float, top_k: int | None, top_p: float | None) -> None:
    """Raise `ValueError` for a setting that has no meaning."""
    check(temperature >= 0, "temperature", "must be at least 0", temperature, "0 takes the likeliest token")
    check(top_k is None or top_k >= 1, "top_k", "must be at least 1", top_k, "leave it out to keep all tokens")
    check(
        top_p is None or 0 < top_p <= 1,
        "top_p",
        "must be in (0, 1]",
        top_p,
        "leave it out to keep all tokens",
    )


def token_probs(
    logits_BV: Tensor, *, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Tensor:
    """softmax(logits / temperature), cut to the top k tokens, then to the top p of the rest; sums to 1.

    Args:
        logits_BV: of the next token.
        temperature: at least 0; 0 puts all on the likeliest token.
        top_k: keep so many of the likeliest tokens; None: all.
        top_p: keep the fewest likeliest tokens whose probabilities sum to at least this; None: all.

    Returns:
        (B, V), float64, so that a draw by cumulated probability is exact enough for a large vocabulary.

    >>> token_probs(torch.tensor([[0.0, 0.0, -1.0]]), top_k=2)
    tensor([[0.5000, 0.5000, 0.0000]], dtype=torch.float64)
    """
    check_sampling(temperature, top_k, top_p)
    if temperature == 0:
        best_B1 = logits_BV.argmax(dim=-1, keepdim=True)
        return torch.zeros_like(logits_BV, dtype=torch.float64).scatter_(-1, best_B1, 1.0)
    probs_BV = (logits_BV.double() / temperature).softmax(dim=-1)
    if top_k is None and top_p is None:
        return probs_BV
    sorted_BV, token_BV = probs_BV.sort(dim=-1, descending=True, stable=True)
    if top_k is not None:
        sorted_BV[:, top_k:] = 0
    if top_p is not None:
        before_BV = sorted_BV.cumsum(dim=-1) - sorted_BV
        sorted_BV[before_BV >= top_p * sorted_BV.sum(dim=-1, keepdim=True)] = 0
    sorted_BV /= sorted_BV.sum(dim=-1, keepdim=True)
    return torch.zeros_like(probs_BV).scatter_(-1, token_BV, sorted_BV)


def next_token(
    logits_BV: Tensor, uniform_B: Tensor, *, temperature: float, top_k: int | None, top_p: float | None
) -> Tensor:
    """A draw from `token_probs` by the uniform numbers, (B,) int64."""
    if temperature == 0:  # the same token as by its probabilities, which take a while over a large vocabulary
        return logits_BV.argmax(dim=-1)
    return sample(token_probs(logits_BV, temperature=temperature, top_k=top_k, top_p=top_p), uniform_B)


def sample(probs_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """The token at which the cumulated probability passes the uniform number in [0, 1), (B,) int64."""
    cumulated_BV = probs_BV.cumsum(dim=-1)
    reached_B1 = uniform_B.to(cumulated_BV)[:, None] * cumulated_BV[:, -1:]
    token_B = torch.searchsorted(cumulated_BV, reached_B1, right=True)[:, 0]
    # A product that rounds up to the whole sum would fall behind the last token of positive probability.
    last_B = probs_BV.shape[-1] - 1 - (probs_BV.flip(-1) > 0).int().argmax(dim=-1)
    return torch.minimum(token_B, last_B)
