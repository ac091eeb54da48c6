"""The EM loop, in log space: M step, E step, until the objective rises no more."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from sparsemix.classic.assign import Assign
from sparsemix.classic.parts import Array, Experts, Gate, Table


class Mixture(NamedTuple):
    """Experts and the gate that mixes them: p(y | x) = sum_e p(e | x) p(y | x, e)."""

    experts: Experts
    gate: Gate

    def log_joint(self, X, y: Array) -> Array:
        """log p(y, e | x), (N, E), up to what a gate that models x adds to a row."""
        return self.gate.log_scores(X) + self.experts.log_density(X, y)

    @property
    def penalty(self) -> float:
        """What the objective of EM subtracts from the log-likelihood, in nats."""
        return self.experts.penalty + self.gate.penalty

    @property
    def exact(self) -> bool:
        """Whether an iteration of EM with soft or hard responsibilities never lowers the objective."""
        return self.experts.exact and self.gate.exact

    def updated(self, table: Table, responsibility_NE: Array) -> Mixture:
        """The M step of both parts."""
        return Mixture(
            self.experts.updated(table, table.weight_N[:, None] * responsibility_NE),
            self.gate.updated(table, responsibility_NE),
        )

    def only(self, keep_E: Array) -> Mixture:
        """The mixture of some of the experts."""
        return Mixture(self.experts.only(keep_E), self.gate.only(keep_E))


class Run(NamedTuple):
    """What EM came to."""

    mixture: Mixture
    path: tuple[float, ...]
    """The objective after each iteration: (penalised) log-likelihood of all rows, in nats."""
    best: int
    """The iteration, from 0, of `mixture`: the last one, unless M steps are inexact or responsibilities drawn."""
    converged: bool
    responsibility_NE: Array
    """Of the last iteration kept."""

    @property
    def objective(self) -> float:
        """Of `mixture`."""
        return self.path[self.best]


class Stopping(NamedTuple):
    """When EM ends."""

    max_iter: int
    tol: float
    """Least gain, in nats a unit of sample weight, that counts as progress."""
    patience: int
    """Iterations in a row without progress that end it."""


def run_em(
    mixture: Mixture,
    table: Table,
    responsibility_NE: Array,
    assign: Assign,
    stopping: Stopping,
    observe: Callable[[int, float], None] = lambda iteration, objective: None,
) -> Run:
    """Raise sum_n w_n log sum_e p(e | x_n) p(y_n | x_n, e) - penalties from the responsibilities given.

    Args:
        mixture: started parts.
        responsibility_NE: where to start, rows sum to one.
        assign: how responsibilities follow from the E step: soft, hard or drawn.
        observe: called after each iteration with its number, from 1, and the objective.

    Source: Jordan & Jacobs, "Hierarchical mixtures of experts and the EM algorithm" (1994); Dempster et al. (1977).
    """
    least_gain = stopping.tol * table.weight_N.sum()
    path: list[float] = []
    best, kept, without = -1, (mixture, responsibility_NE), 0
    for iteration in range(stopping.max_iter):
        mixture = mixture.updated(table, responsibility_NE)
        log_joint_NE = mixture.log_joint(table.X, table.y)
        path.append(float(table.weight_N @ assign.evidence(log_joint_NE)) - mixture.penalty)
        responsibility_NE = assign.responsibilities(log_joint_NE)
        observe(iteration + 1, path[-1])
        gain = np.inf if best < 0 else path[-1] - path[best]
        if gain >= 0:
            best, kept = iteration, (mixture, responsibility_NE)
        without = 0 if gain > least_gain else without + 1
        if without >= stopping.patience:
            break
    return Run(kept[0], tuple(path), best, without >= stopping.patience, kept[1])
