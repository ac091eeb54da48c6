"""Experts and gate as one density, and the two steps of EM on it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.special import logsumexp

from sparsemix.classic.em.assign import Assign
from sparsemix.classic.numeric.blocks import in_blocks
from sparsemix.classic.numeric.multinomial import normalised
from sparsemix.classic.parts import Array, Experts, Gate, Table


class Views(NamedTuple):
    """One table as each part reads it fastest, made once for all passes of EM."""

    experts: Table
    gate: Table


class Mixture(NamedTuple):
    """Experts and the gate that mixes them: p(y | x) = sum_e p(e | x) p(y | x, e)."""

    experts: Experts
    gate: Gate

    def log_joint(self, X: Any, y: Array) -> Array:
        """log p(y, e | x), (N, E), up to what a gate that models x adds to a row."""
        return self.gate.log_scores(X) + self.experts.log_density(X, y)

    def log_density(self, X: Any, y: Array) -> Array:
        """log p(y | x), (N,); of a gate that models x, log p(x) is left out."""
        return in_blocks(lambda X, y: mixed(self.gate.log_scores(X), self.experts.log_density(X, y)), X, y)

    @property
    def n_parameters(self) -> float:
        """Free parameters of both parts."""
        return self.experts.n_parameters + self.gate.n_parameters

    @property
    def penalty(self) -> float:
        """What the objective of EM subtracts from the log-likelihood, in nats."""
        return self.experts.penalty + self.gate.penalty

    @property
    def exact(self) -> bool:
        """Whether an iteration of EM with soft or hard responsibilities never lowers the objective."""
        return self.experts.exact and self.gate.exact

    def views(self, table: Table) -> Views:
        """The table as experts and gate read it fastest."""
        return Views(
            table._replace(X=self.experts.prepared(table.X)),
            table._replace(X=self.gate.prepared(table.X)),
        )

    def updated(self, table: Table, responsibility_NE: Array) -> Mixture:
        """The M step of both parts."""
        return m_step(self, self.views(table), responsibility_NE)

    def only(self, keep_E: Array) -> Mixture:
        """The mixture of some of the experts."""
        return Mixture(self.experts.only(keep_E), self.gate.only(keep_E))


def mixed(log_gate_NE: Array, log_density_NE: Array) -> Array:
    """log sum_e gate_e p(y | x, e), (N,), the gate's rows made to sum to one."""
    return np.asarray(logsumexp(normalised(log_gate_NE) + log_density_NE, axis=1))


class State(NamedTuple):
    """A mixture and its E step on the table."""

    mixture: Mixture
    objective: float
    """sum_n w_n evidence_n - penalty."""
    log_joint_NE: Array
    responsibility_NE: Array


def m_step(mixture: Mixture, views: Views, responsibility_NE: Array) -> Mixture:
    """Experts and gate fitted to the responsibilities."""
    weight_NE = views.experts.weight_N[:, None] * responsibility_NE
    return Mixture(
        mixture.experts.updated(views.experts, weight_NE), mixture.gate.updated(views.gate, responsibility_NE)
    )


def e_step(mixture: Mixture, views: Views, assign: Assign) -> State:
    """What the mixture says of the rows that it was just fitted to."""
    log_joint_NE = mixture.gate.log_scores(views.gate.X) + mixture.experts.training_log_density(views.experts)
    evidence_N, responsibility_NE = assign(log_joint_NE)
    objective = float(views.gate.weight_N @ evidence_N) - mixture.penalty
    return State(mixture, objective, log_joint_NE, responsibility_NE)


def iteration(mixture: Mixture, views: Views, responsibility_NE: Array, assign: Assign) -> State:
    """M step, then E step."""
    return e_step(m_step(mixture, views, responsibility_NE), views, assign)
