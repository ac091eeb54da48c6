"""Edges token -> expert, the order of candidates, and routing of parts of a batch on their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Edge(NamedTuple):
    """One token for one expert; `kept` is False where the expert has no place left."""

    token: int
    expert: int
    weight: Tensor
    kept: bool = True


def ranking(values: Sequence[float] | Tensor) -> list[int]:
    """Indices by falling value; ties go to the lower index."""
    plain = values.tolist() if isinstance(values, Tensor) else list(values)
    return sorted(range(len(plain)), key=lambda i: (-plain[i], i))


def apart(route: Callable[[list[int]], Iterable[Edge]], parts: Sequence[Sequence[int]]) -> list[Edge]:
    """Routes groups of tokens that do not see each other: `route` takes a part's rows and numbers them from 0.

    Tokens in no part, such as padding, get no edge: `apart(route, [valid_rows])` routes without padding.
    """
    return [edge._replace(token=part[edge.token]) for part in parts if part for edge in route(list(part))]


def choices_of(edges: Iterable[Edge], num_tokens: int) -> list[list[int]]:
    """The experts of each token in the order of the edges, kept or not: what balance losses count."""
    found: list[list[int]] = [[] for _ in range(num_tokens)]
    for edge in edges:
        found[edge.token].append(edge.expert)
    return found


def kept_pairs(edges: Iterable[Edge]) -> set[tuple[int, int]]:
    """(token, expert) of the edges that are kept."""
    return {(edge.token, edge.expert) for edge in edges if edge.kept}


def gate_matrix(edges: Iterable[Edge], num_tokens: int, num_experts: int) -> Tensor:
    """The kept weights as a matrix (T, E), 0 elsewhere, with their graph."""
    zero = torch.zeros((), dtype=torch.float64)
    rows = [[zero] * num_experts for _ in range(num_tokens)]
    for edge in edges:
        if edge.kept:
            rows[edge.token][edge.expert] = rows[edge.token][edge.expert] + edge.weight
    flat = [value for row in rows for value in row]
    return (torch.stack(flat) if flat else torch.zeros(0, dtype=torch.float64)).reshape(num_tokens, num_experts)
