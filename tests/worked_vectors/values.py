"""What worked vectors are written with: matrices, logits of given probabilities, and edges in plain numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from references import Edge
from torch import Tensor


def matrix(rows: Sequence) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def logits_of(probs: Sequence) -> Tensor:
    """Logits whose softmax is `probs` (rows sum to 1)."""
    return matrix(probs).log()


def logits_of_sigmoid(scores: Sequence) -> Tensor:
    return torch.logit(matrix(scores))


def plain(edges: Iterable[Edge]) -> list[tuple[int, int, float]]:
    """(token, expert, weight rounded to 9 digits), in the order of the edges."""
    return [(edge.token, edge.expert, round(edge.weight.item(), 9)) for edge in edges]


def rounded(*numbers: tuple[int, int, float]) -> list[tuple[int, int, float]]:
    """The expected counterpart of `plain`."""
    return [(t, e, round(weight, 9)) for t, e, weight in numbers]
