"""Multinomial logistic regression on soft targets, by Newton steps: of gates and logistic experts."""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np
from scipy.sparse.linalg import LinearOperator, cg

from sparsemix.checks import check
from sparsemix.classic.numeric.columns import Columns
from sparsemix.classic.numeric.curvature import PairSums, applied, centred, rows_in_block, solved
from sparsemix.classic.parts import Array

HALVINGS = 20
ENOUGH = 1e-9
"""Steps end when one would gain less than this, in nats a unit of weight."""
ONLINE_STEPS = 5
LARGE = 500
"""From so many coefficients on, steps are by conjugate gradients, without the matrix of second derivatives."""
CONJUGATE_STEPS = 50
CONJUGATE_TOLERANCE = 0.05


class Logits(NamedTuple):
    """p(k | z) = softmax_k(coef_k z + intercept_k), with penalty alpha / 2 ||coef||^2; both sum to 0 over classes."""

    coef_KD: Array
    intercept_K: Array
    alpha: float

    def log_proba(self, z: Columns) -> Array:
        """log p(k | z_n), (N, K)."""
        return normalised(z.times(self.coef_KD) + self.intercept_K)

    @property
    def penalty(self) -> float:
        return 0.5 * self.alpha * float((self.coef_KD**2).sum())

    @property
    def n_parameters(self) -> int:
        """Free ones."""
        return (len(self.coef_KD) - 1) * (self.coef_KD.shape[1] + 1)

    @property
    def ridge_D(self) -> Array:
        """What the penalty adds to second derivatives of coefficients and intercept, (D + 1,)."""
        return np.append(np.full(self.coef_KD.shape[1], self.alpha), 0.0)

    def objective(self, z: Columns, target_NK: Array, weight_N: Array) -> float:
        """sum_n w_n sum_k target_nk log p(k | z_n) - penalty; targets of a row sum to 1."""
        total = 0.0
        for block, score_KB in z.products(self.coef_KD):
            log_KB = log_softmax(score_KB + self.intercept_K[:, None])
            total += float(weight_N[block] @ (target_NK[block].T * log_KB).sum(axis=0))
        return total - self.penalty

    def moved(self, step_KD: Array) -> Self:
        """After a step of coefficients and intercept, (K, D + 1)."""
        return self._replace(coef_KD=self.coef_KD + step_KD[:, :-1], intercept_K=self.intercept_K + step_KD[:, -1])

    def only(self, keep_K: Array) -> Self:
        """Of some of the classes."""
        coef_KD, intercept_K = centred(self.coef_KD[keep_K]), centred(self.intercept_K[keep_K])
        return self._replace(coef_KD=coef_KD, intercept_K=intercept_K)


class Step(NamedTuple):
    """From where, and where to."""

    objective: float
    """Where it starts."""
    step_KD: Array
    """(K, D + 1), the intercept last."""
    gain: float
    """What the quadratic model promises."""
    pair_KKDD: Array | None
    """C_ab of `curvature`, where it was summed."""


def uniform(classes: int, features: int, alpha: float) -> Logits:
    """All classes equally probable everywhere."""
    return Logits(np.zeros((classes, features)), np.zeros(classes), alpha)


def log_softmax(score_KB: Array) -> Array:
    """log softmax over the first axis."""
    score_KB = score_KB - score_KB.max(axis=0)
    return score_KB - np.log(np.exp(score_KB).sum(axis=0))


def normalised(log_NE: Array) -> Array:
    """Rows of log-probabilities whose probabilities sum to one: log softmax, of which the whole row may be tiny."""
    out_EN = np.empty(log_NE.shape[::-1])
    for first in range(0, len(log_NE), 4096):
        out_EN[:, first : first + 4096] = log_softmax(log_NE[first : first + 4096].T)
    return out_EN.T


def climb(start: Logits, z: Columns, target_NK: Array, weight_N: Array, steps: int) -> tuple[Logits, Array | None]:
    """Newton steps (IRLS) on the objective, each halved until it does not fall; `start` where none rises.

    Returns:
        The logits, and the sums C_ab of `curvature` at the last step; None: too large, no step, or nothing to learn.
    """
    logits, pair_KKDD = start, None
    if len(start.coef_KD) == 1 or not weight_N.any():
        return logits, pair_KKDD
    newton = newton_step if is_small(start) else conjugate_step
    for _ in range(steps):
        step = newton(logits, z, target_NK, weight_N)
        pair_KKDD = step.pair_KKDD
        trial = _risen(logits, step, z, target_NK, weight_N) if step.gain >= ENOUGH * weight_N.sum() else None
        if trial is None:
            break
        logits = trial
    return logits, pair_KKDD


def is_small(logits: Logits) -> bool:
    """Whether its matrix of second derivatives is worth summing."""
    return logits.n_parameters < LARGE


def online_step(
    start: Logits, past_KKDD: Array | None, keep: float, z: Columns, target_NK: Array, weight_N: Array
) -> tuple[Logits, Array]:
    """An M step on new rows: raises their log-likelihood - d' (H + alpha) d / 2, d the way from `start`, H of old rows.

    So the rows before are remembered by a quadratic around what was learned of them: Laplace's approximation, of which
    one Newton step is the extended Kalman filter.

    Args:
        past_KKDD: C_ab of `curvature` of the rows before; None: there were none.
        keep: what they are discounted by.

    Returns:
        The logits, and C_ab with the new rows.
    """
    before_KKDD = _discounted(start, past_KKDD, keep)
    rows = (z, target_NK, weight_N)
    free, way_KD, pair_KKDD = start._replace(alpha=0.0), np.zeros(before_KKDD.shape[1:3]), np.zeros_like(before_KKDD)

    def held(way_KD: Array) -> Array:
        return applied(before_KKDD, way_KD) + start.ridge_D * way_KD

    for _ in range(ONLINE_STEPS):
        objective, gradient_KD, pair_KKDD = derivatives(free.moved(way_KD), *rows)
        objective -= 0.5 * float((way_KD * held(way_KD)).sum())
        gradient_KD -= held(way_KD)
        step_KD = solved(before_KKDD + pair_KKDD, start.ridge_D, gradient_KD)
        if float((gradient_KD * step_KD).sum()) < ENOUGH * weight_N.sum():
            break
        for halvings in range(HALVINGS):
            trial_KD = way_KD + step_KD / 2**halvings
            if free.moved(trial_KD).objective(*rows) - 0.5 * float((trial_KD * held(trial_KD)).sum()) >= objective:
                way_KD = trial_KD
                break
    return start.moved(way_KD), before_KKDD + pair_KKDD


def _discounted(start: Logits, past_KKDD: Array | None, keep: float) -> Array:
    seen, remedy = f"{start.n_parameters}", "use fit"
    check(is_small(start), "partial_fit", f"must have gates and experts of under {LARGE} coefficients", seen, remedy)
    classes, features = start.coef_KD.shape
    return np.zeros((classes, classes, features + 1, features + 1)) if past_KKDD is None else keep * past_KKDD


def _risen(logits: Logits, step: Step, z: Columns, target_NK: Array, weight_N: Array) -> Logits | None:
    """After the largest of step, step / 2, step / 4 ... that does not lower the objective."""
    for halvings in range(HALVINGS):
        trial = logits.moved(step.step_KD / 2**halvings)
        if trial.objective(z, target_NK, weight_N) >= step.objective:
            return trial
    return None


def newton_step(logits: Logits, z: Columns, target_NK: Array, weight_N: Array) -> Step:
    """The step to the maximum of the quadratic model, by one pass and a Cholesky factor."""
    objective, gradient_KD, pair_KKDD = derivatives(logits, z, target_NK, weight_N)
    step_KD = solved(pair_KKDD, logits.ridge_D, gradient_KD)
    return Step(objective, step_KD, 0.5 * float((gradient_KD * step_KD).sum()), pair_KKDD)


def derivatives(logits: Logits, z: Columns, target_NK: Array, weight_N: Array) -> tuple[float, Array, Array]:
    """The objective, its gradient (K, D + 1), and the sums C_ab of `curvature`, (K, K, D + 1, D + 1)."""
    classes, features = len(logits.coef_KD), z.shape[1] + 1
    objective, gradient_KD = -logits.penalty, -logits.ridge_D * np.column_stack([logits.coef_KD, logits.intercept_K])
    sums = PairSums(classes, features)
    for block, z_BD in z.blocks(rows_in_block(classes, features)):
        z_DB = np.vstack([z_BD.T, np.ones(len(z_BD))])
        log_KB = log_softmax(logits.coef_KD @ z_BD.T + logits.intercept_K[:, None])
        p_KB, target_KB, weight_B = np.exp(log_KB), target_NK[block].T, weight_N[block]
        objective += float(weight_B @ (target_KB * log_KB).sum(axis=0))
        gradient_KD += ((target_KB - p_KB) * weight_B) @ z_DB.T
        sums.add(weight_B, p_KB, z_DB)
    return objective, gradient_KD, sums.result()


def conjugate_step(logits: Logits, z: Columns, target_NK: Array, weight_N: Array) -> Step:
    """A step towards that maximum by conjugate gradients: products with z only, so that z may be wide and sparse.

    Source: Nocedal & Wright, "Numerical Optimization" (2006), section 7.1 (truncated Newton).
    """
    log_NK = logits.log_proba(z)
    p_NK = np.exp(log_NK)
    objective = float(weight_N @ (target_NK * log_NK).sum(axis=1)) - logits.penalty
    flat_KD = np.column_stack([logits.coef_KD, logits.intercept_K])
    gradient_KD = _transposed(z, weight_N[:, None] * (target_NK - p_NK)) - logits.ridge_D * flat_KD

    def curved(step: Array) -> Array:
        step_KD = step.reshape(gradient_KD.shape)
        change_NK = z.times(step_KD[:, :-1]) + step_KD[:, -1]
        change_NK = p_NK * (change_NK - (p_NK * change_NK).sum(axis=1, keepdims=True))
        return (_transposed(z, weight_N[:, None] * change_NK) + logits.ridge_D * step_KD).ravel()

    hessian = LinearOperator((gradient_KD.size, gradient_KD.size), matvec=curved, dtype=np.float64)  # pyright: ignore
    step = cg(hessian, gradient_KD.ravel(), rtol=CONJUGATE_TOLERANCE, maxiter=CONJUGATE_STEPS)[0]
    step_KD = centred(step.reshape(gradient_KD.shape))
    return Step(objective, step_KD, 0.5 * float((gradient_KD * step_KD).sum()), None)


def _transposed(z: Columns, value_NK: Array) -> Array:
    """value^T [z, 1], (K, D + 1)."""
    return np.column_stack([z.transposed_times(value_NK), value_NK.sum(axis=0)])
