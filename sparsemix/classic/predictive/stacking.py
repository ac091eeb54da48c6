"""Weights of the experts learned a second time, on rows that the experts have not seen."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax

from sparsemix.checks import check
from sparsemix.classic.em.mixture import Mixture
from sparsemix.classic.numeric.multinomial import normalised
from sparsemix.classic.parts import Array, Table

SHRINKAGE = 1.0
"""Rows' worth of pull towards the gate as it is; it decides only where the rows do not."""

LEAST = float(np.log(np.finfo(float).tiny))
"""Log-probabilities of the gate count as no lower, so that power 0 has a meaning for all."""


class Stack(NamedTuple):
    """The gate made anew: p(e | x) = softmax_e(power * log gate_e(x) + shift_e).

    With power 1 and shift 0 it is the gate; with power 0 experts have weights that do not depend on x, as in stacking
    without a gate; the greater the power, the more the first expert decides alone.
    """

    power: float
    shift_E: Array

    def log_scores(self, log_gate_NE: Array) -> Array:
        """Logs of the experts' probabilities, (N, E), each row up to a constant."""
        return self.power * np.maximum(log_gate_NE, LEAST) + self.shift_E


Split = tuple[Array, Array]
"""Rows to fit, rows held out, as scikit-learn's splitters give them."""


def fit_stack(mixture: Mixture, table: Table, responsibility_NE: Array, splits: Iterable[Split]) -> Stack:
    """The stack with the highest log-likelihood of rows that were held out.

    Costs one M step a split: each fits experts and gate to the responsibilities that EM ended with, so that experts
    keep their numbers and regions. The step of a gate that needs several leads from the maximum for all rows to that
    for the rows of the split, which is near: what one Newton step leaves out is of second order in the rows held out.
    Rows of all splits together should be the table, each once.

    Source: Yao, Vehtari, Simpson & Gelman, "Using stacking to average Bayesian predictive distributions" (2018);
        weights that depend on x: Yao, Pirs, Vehtari & Gelman, "Bayesian hierarchical stacking" (2022).
    """
    gates, densities, weights = [], [], []
    for fitted, held_out in splits:
        part = mixture.updated(table.rows(fitted), responsibility_NE[fitted])
        unseen = table.rows(held_out)
        gates.append(normalised(part.gate.log_scores(unseen.X)))
        densities.append(part.experts.log_density(unseen.X, unseen.y))
        weights.append(unseen.weight_N)
    return best_stack(np.concatenate(gates), np.concatenate(densities), np.concatenate(weights))


def best_stack(log_gate_NE: Array, log_density_NE: Array, weight_N: Array) -> Stack:
    """The maximum of sum_n w_n log sum_e gate_e p(y_n | x_n, e) - SHRINKAGE / 2 ((power - 1)^2 + ||shift||^2)."""
    log_gate_NE = np.maximum(log_gate_NE, LEAST)

    def loss(theta: Array) -> tuple[float, Array]:
        log_stack_NE = normalised(theta[0] * log_gate_NE + theta[1:])
        log_joint_NE = log_stack_NE + log_density_NE
        excess_NE = weight_N[:, None] * (softmax(log_joint_NE, axis=1) - np.exp(log_stack_NE))
        away = theta - start
        value = SHRINKAGE / 2 * (away @ away) - weight_N @ logsumexp(log_joint_NE, axis=1)
        return value, SHRINKAGE * away - np.append((excess_NE * log_gate_NE).sum(), excess_NE.sum(axis=0))

    start = np.append(1.0, np.zeros(log_gate_NE.shape[1]))
    bounds = [(0.0, None)] + [(None, None)] * log_gate_NE.shape[1]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds)
    check(bool(np.isfinite(found.fun)), "pooling", "stacking needs a finite log-likelihood", found.fun)
    return Stack(float(found.x[0]), found.x[1:])
