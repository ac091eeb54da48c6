"""The layer: weighted sums of experts, one token at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from references.capacity import Choices
from references.edges import Edge

Expert = Callable[[Tensor], Tensor]


def moe(
    x_TD: Tensor,
    choices: Choices,
    weights: Sequence[Sequence[Tensor]],
    kept: set[tuple[int, int]],
    experts: Sequence[Expert],
) -> Tensor:
    """y_t = sum over the kept edges of token t of w f_e(x_t)."""
    rows = []
    for t in range(len(x_TD)):
        row = torch.zeros_like(x_TD[t])
        for j, e in enumerate(choices[t]):
            if (t, j) in kept:
                row = row + weights[t][j] * experts[e](x_TD[t])
        rows.append(row)
    return torch.stack(rows) if rows else 0 * x_TD


def mixture(x_TD: Tensor, edges: Iterable[Edge], experts: Sequence[Expert]) -> Tensor:
    """y_t = sum over the kept edges of w f_e(x_t), from a list of edges."""
    rows = [torch.zeros_like(x_D) for x_D in x_TD]
    for edge in edges:
        if edge.kept:
            rows[edge.token] = rows[edge.token] + edge.weight * experts[edge.expert](x_TD[edge.token])
    return torch.stack(rows) if rows else 0 * x_TD
