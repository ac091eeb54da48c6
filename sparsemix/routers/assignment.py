"""All tokens assigned at once: a bias that evens out what a softmax gives, and the best balanced assignment."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

F = TypeVar("F", bound=Callable[..., Any])
GRAIN = 2**16
"""Steps that the range of the scores is divided into: exact sums, and tokens alike that move together."""
ROUNDS = 16
FAR = 2**60
"""More than any path costs; twice as much still fits in int64."""


def evened(logits_TE: Tensor, bias_E: Tensor) -> Tensor:
    """b - log(E mean_t softmax(z_t + b)): one round of Sinkhorn's iteration, in logarithms.

    At its fixed point every expert has the same mean of softmax(z + b).
    """
    num_tokens, num_experts = logits_TE.shape
    share_E = (logits_TE + bias_E).log_softmax(-1).logsumexp(0)
    return bias_E - share_E - math.log(num_experts / num_tokens)


def uncompiled(function: F) -> F:
    """The function as it is under `torch.compile`, which would trace NumPy's loops round by round."""
    return cast(F, torch.compiler.disable(function))


@uncompiled
@torch.no_grad()
def balanced_assignment(scores_TE: Tensor) -> Tensor:
    """An expert for each token, every expert with T / E tokens, so that the sum of the scores is the largest; (T,).

    Exact for scores rounded to a grain of (max - min) / 2^16, so at most T grains below the optimum. Where E does not
    divide T, the T mod E experts in the greatest demand have one token more. On the CPU, wherever the scores are.

    Method: each token takes what is best for it at prices that nearly balance the experts; this is the best assignment
    for the loads it has. Then tokens move along the cheapest paths from experts with too many to those with too few
    (successive shortest paths over E nodes), which keeps it so until the loads are right.

    Args:
        scores_TE: what is not finite counts as the least finite score.
    """
    num_tokens, num_experts = scores_TE.shape
    if num_tokens == 0:
        return torch.empty(0, dtype=torch.int64, device=scores_TE.device)
    gain_TE = _in_grains(scores_TE)
    bias_E = _evening_bias(gain_TE.float()).round().long()
    room_E = torch.full((num_experts,), num_tokens // num_experts, device="cpu")
    room_E[bias_E.argsort(stable=True)[: num_tokens % num_experts]] += 1
    exchange = _Exchange(gain_TE.numpy(), (gain_TE + bias_E).argmax(-1).numpy(), room_E.numpy())
    exchange.settle()
    return torch.from_numpy(exchange.expert).to(scores_TE.device)


def _in_grains(scores_TE: Tensor) -> Tensor:
    """Scores as whole numbers of grains, int64 in 0..GRAIN, on the CPU."""
    scores_TE = scores_TE.detach().to("cpu", torch.float64)
    finite_TE = scores_TE.isfinite()
    if not finite_TE.any():
        return torch.zeros_like(scores_TE, dtype=torch.int64)
    least, most = scores_TE[finite_TE].aminmax()
    above_TE = torch.where(finite_TE, scores_TE - least, 0)
    return (above_TE / (most - least or 1.0) * GRAIN).round().long()


def _evening_bias(gain_TE: Tensor) -> Tensor:
    """What nearly balances the experts when added to the gains: Sinkhorn's iteration at a falling temperature."""
    bias_E = gain_TE.new_zeros(gain_TE.shape[1])
    for temperature in np.geomspace(GRAIN / 4, GRAIN / 10_000, ROUNDS).tolist():
        bias_E = temperature * evened(gain_TE / temperature, bias_E / temperature)
    return bias_E


class _Exchange:
    """An assignment that is the best for its loads, and stays so while tokens move until the loads are right."""

    def __init__(self, gain: np.ndarray, expert: np.ndarray, room: np.ndarray) -> None:
        self.gain, self.expert = gain, expert
        self.excess = np.bincount(expert, minlength=len(room)) - room
        self.cost = np.zeros((len(room), len(room)), dtype=np.int64)
        self._look_at(range(len(room)))

    def settle(self) -> None:
        """Move tokens until no expert has too many."""
        while (self.excess > 0).any():
            distance, before = _cheapest_paths(self.cost, self.excess > 0)
            touched = set()
            # All these paths are cheapest ones, and stay so while others are used, as long as there are tokens to move.
            for last in np.argsort(distance, kind="stable").tolist():
                if self.excess[last] < 0:
                    touched |= self._move_along(_path(before, last))
            self._look_at(touched)

    def _move_along(self, path: list[int]) -> set[int]:
        """As many tokens as can move at the known cost, each one expert further; the experts that changed."""
        amount = min(self.excess[path[0]], -self.excess[path[-1]])
        moves = []
        for source, target in pairwise(path):
            if amount == 0:  # another path of this round has used up the tokens
                return set()
            token = np.flatnonzero(self.expert == source)
            token = token[self.gain[token, source] - self.gain[token, target] == self.cost[source, target]]
            amount = min(amount, len(token))
            moves.append((token, target))
        for token, target in moves:
            self.expert[token[:amount]] = target
        self.excess[path[0]] -= amount
        self.excess[path[-1]] += amount
        return set(path)

    def _look_at(self, experts: range | set[int]) -> None:
        """What it costs to move one token from each of these experts to each other."""
        for source in experts:
            gain = self.gain[self.expert == source]
            self.cost[source] = (gain[:, source, None] - gain).min(0, initial=FAR)
            self.cost[source, source] = 0


def _cheapest_paths(cost: np.ndarray, is_source: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cost of the cheapest path from any source to each expert, and the expert before it, -1 at the beginning."""
    distance, before = np.where(is_source, 0, FAR), np.full(len(cost), -1)
    while True:  # Bellman and Ford; costs may be negative, but no cycle's is
        through = distance[:, None] + cost
        nearest = through.argmin(0)
        shortest = through[nearest, np.arange(len(cost))]
        shorter = shortest < distance
        if not shorter.any():
            return distance, before
        distance[shorter], before[shorter] = shortest[shorter], nearest[shorter]


def _path(before: np.ndarray, last: int) -> list[int]:
    path = [last]
    while before[path[-1]] >= 0:
        path.append(int(before[path[-1]]))
    return path[::-1]
