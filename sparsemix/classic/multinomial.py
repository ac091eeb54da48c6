"""Multinomial logistic regression on soft targets, by Newton steps: of gates and logistic experts."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

from sparsemix.classic.parts import Array

HALVINGS = 20
ENOUGH = 1e-9
"""Steps end when one gains less than this, in nats a unit of weight."""


class Logits(NamedTuple):
    """p(k | z) = softmax_k(coef_k z + intercept_k), with penalty alpha / 2 ||coef||^2."""

    coef_KD: Array
    intercept_K: Array
    alpha: float

    def log_proba(self, z_ND: Array) -> Array:
        return normalised(z_ND @ self.coef_KD.T + self.intercept_K)

    @property
    def penalty(self) -> float:
        return 0.5 * self.alpha * float((self.coef_KD**2).sum())

    def objective(self, z_ND: Array, target_NK: Array, weight_N: Array) -> float:
        """sum_n w_n sum_k target_nk log p(k | z_n) - penalty."""
        return float(weight_N @ (target_NK * self.log_proba(z_ND)).sum(axis=1)) - self.penalty


def normalised(log_NE: Array) -> Array:
    """Rows of log-probabilities whose probabilities sum to one: log softmax, of which the whole row may be tiny."""
    return log_NE - logsumexp(log_NE, axis=1, keepdims=True)


def ascend(start: Logits, z_ND: Array, target_NK: Array, weight_N: Array, steps: int) -> Logits:
    """Newton steps (IRLS) on the objective, each halved until it does not fall; `start` where none rises."""
    logits, reached = start, start.objective(z_ND, target_NK, weight_N)
    for _ in range(steps):
        step = newton_step(logits, z_ND, target_NK, weight_N)
        for _ in range(HALVINGS):
            trial = logits._replace(
                coef_KD=logits.coef_KD + step.coef_KD, intercept_K=logits.intercept_K + step.intercept_K
            )
            objective = trial.objective(z_ND, target_NK, weight_N)
            if objective >= reached:
                break
            step = step._replace(coef_KD=step.coef_KD / 2, intercept_K=step.intercept_K / 2)
        else:
            return logits
        logits, gain, reached = trial, objective - reached, objective
        if gain < ENOUGH * weight_N.sum():
            break
    return logits


def newton_step(logits: Logits, z_ND: Array, target_NK: Array, weight_N: Array) -> Logits:
    """The step to the maximum of the quadratic model; of the redundant direction of the softmax, the shortest."""
    classes, features = logits.coef_KD.shape[0], logits.coef_KD.shape[1] + 1
    one_ND = np.column_stack([z_ND, np.ones(len(z_ND))])
    p_NK = np.exp(logits.log_proba(z_ND))
    ridge_D = np.append(np.full(features - 1, logits.alpha), 0.0)
    coef_KD = np.column_stack([logits.coef_KD, logits.intercept_K])
    gradient_KD = (weight_N[:, None] * (target_NK - p_NK)).T @ one_ND - ridge_D * coef_KD
    hessian = np.zeros((classes, features, classes, features))
    for a in range(classes):
        for b in range(classes):
            share_N = weight_N * p_NK[:, a] * ((a == b) - p_NK[:, b])
            hessian[a, :, b] = (one_ND * share_N[:, None]).T @ one_ND
        hessian[a, :, a] += np.diag(ridge_D)
    step = np.linalg.lstsq(hessian.reshape(classes * features, -1), gradient_KD.ravel(), rcond=None)[0]
    step_KD = step.reshape(classes, features)
    return logits._replace(coef_KD=step_KD[:, :-1], intercept_K=step_KD[:, -1])
