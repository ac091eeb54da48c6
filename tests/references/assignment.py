"""Assignment of the whole batch at once, or by no router at all: BASE, Sinkhorn, hash layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from references.edges import Edge, ranking
from references.gates import sigmoid, softmax


def balanced_assignments(num_tokens: int, room: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Every way to give each token an expert that has room, in lexicographic order."""
    if num_tokens == 0:
        yield ()
    for e, free in enumerate(room if num_tokens else ()):
        if free:
            left = (*room[:e], free - 1, *room[e + 1 :])
            for rest in balanced_assignments(num_tokens - 1, left):
                yield (e, *rest)


def best_assignment(scores_TE: Tensor) -> tuple[int, ...]:
    """T / E tokens an expert with the largest total score, by trying all; for tiny T. The first of equal ones."""
    plain = scores_TE.tolist()
    num_tokens, num_experts = scores_TE.shape
    assert num_tokens % num_experts == 0, "T must be a multiple of E"
    every = balanced_assignments(num_tokens, (num_tokens // num_experts,) * num_experts)
    return max(every, key=lambda found: sum(plain[t][e] for t, e in enumerate(found)))


def base(scores_TE: Tensor) -> list[Edge]:
    """BASE in training: the optimal balanced assignment, weighted by the sigmoid of the score."""
    return [Edge(t, e, sigmoid(scores_TE[t, e])) for t, e in enumerate(best_assignment(scores_TE))]


def base_greedy(scores_TE: Tensor) -> list[Edge]:
    """BASE in evaluation: each token's best expert, weighted by the sigmoid of the score."""
    return [Edge(t, (e := ranking(row)[0]), sigmoid(row[e])) for t, row in enumerate(scores_TE)]


# --- Sinkhorn ---------------------------------------------------------------------------------------------------------


def sinkhorn_plan(logits_TE: Tensor, tolerance: float = 1e-4, epsilon: float = 1e-8) -> Tensor:
    """exp(z) scaled until columns sum to 1 / E and rows nearly to 1 / T (Megatron's iteration, columns last).

    Stops when the column factors change by less than `tolerance` on average. Carries no gradient.
    """
    cost_TE = torch.exp(logits_TE.detach())
    num_tokens, num_experts = cost_TE.shape
    columns = [1.0] * num_experts
    while True:
        before = columns
        rows = [1 / num_tokens / (sum(c * d for c, d in zip(row, columns)) + epsilon) for row in cost_TE.tolist()]
        columns = [1 / num_experts / (sum(c * d for c, d in zip(col, rows)) + epsilon) for col in cost_TE.T.tolist()]
        if sum(abs(new - old) for new, old in zip(columns, before)) / num_experts < tolerance:
            return torch.tensor(rows, dtype=torch.float64)[:, None] * cost_TE * torch.tensor(columns).double()


def sinkhorn(logits_TE: Tensor, k: int, tolerance: float = 1e-4) -> list[Edge]:
    """S-BASE in training: the best k of the plan, weighted by sigmoid(z) for k = 1 and by softmax(z) for k > 1."""
    return activated(logits_TE, [ranking(row)[:k] for row in sinkhorn_plan(logits_TE, tolerance)], k)


def sinkhorn_greedy(logits_TE: Tensor, k: int) -> list[Edge]:
    """S-BASE in evaluation: the best k of the logits themselves, weighted in the same way."""
    return activated(logits_TE, [ranking(row)[:k] for row in logits_TE], k)


def activated(logits_TE: Tensor, choices: Sequence[Sequence[int]], k: int) -> list[Edge]:
    activate = sigmoid if k == 1 else softmax
    return [Edge(t, e, activate(logits_TE[t])[e]) for t, chosen in enumerate(choices) for e in chosen]


# --- hash layers ------------------------------------------------------------------------------------------------------


def hashed(ids: Sequence[int], table: Sequence[int]) -> list[Edge]:
    """The expert of a token is a fixed function of its id; weight 1."""
    return [Edge(t, table[i], torch.ones((), dtype=torch.float64)) for t, i in enumerate(ids)]


def random_table(uniform_V: Tensor, num_experts: int) -> list[int]:
    """An expert for each id of the vocabulary by a uniform draw each."""
    return [int(u * num_experts) for u in uniform_V.tolist()]


def balanced_table(frequency_V: Sequence[float], num_experts: int) -> list[int]:
    """Ids from the most frequent on, each to the expert with the least frequency so far; ties to the lower number."""
    load = [0.0] * num_experts
    table = [0] * len(frequency_V)
    for i in ranking(frequency_V):
        e = load.index(min(load))
        table[i] = e
        load[e] += frequency_V[i]
    return table
