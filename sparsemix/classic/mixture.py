"""Experts and gate as one density, and the two steps of EM on it."""

from __future__ import annotations

from typing import Any, NamedTuple

from sparsemix.classic.assign import Assign
from sparsemix.classic.parts import Array, Experts, Gate, Table


class Mixture(NamedTuple):
    """Experts and the gate that mixes them: p(y | x) = sum_e p(e | x) p(y | x, e)."""

    experts: Experts
    gate: Gate

    def log_joint(self, X: Any, y: Array) -> Array:
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


class State(NamedTuple):
    """A mixture and its E step on the table."""

    mixture: Mixture
    objective: float
    """sum_n w_n evidence_n - penalty."""
    log_joint_NE: Array
    evidence_N: Array
    responsibility_NE: Array


def e_step(mixture: Mixture, table: Table, assign: Assign) -> State:
    """What the mixture says of the rows."""
    log_joint_NE = mixture.gate.log_scores(table.X) + mixture.experts.training_log_density(table)
    evidence_N, responsibility_NE = assign(log_joint_NE)
    objective = float(table.weight_N @ evidence_N) - mixture.penalty
    return State(mixture, objective, log_joint_NE, evidence_N, responsibility_NE)


def iteration(mixture: Mixture, table: Table, responsibility_NE: Array, assign: Assign) -> State:
    """M step, then E step."""
    return e_step(mixture.updated(table, responsibility_NE), table, assign)
