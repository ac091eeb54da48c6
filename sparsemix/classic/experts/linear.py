"""Linear regression experts in closed form, all fitted together."""

from __future__ import annotations

from copy import copy
from typing import Any, Self

import numpy as np
from sklearn.utils import Tags, gen_batches

from sparsemix.checks import check
from sparsemix.classic.experts.moments import Scale, moments
from sparsemix.classic.experts.ridge import fit_line
from sparsemix.classic.numeric.threads import one_thread
from sparsemix.classic.parts import Array, Experts, Table

ROWS = 1 << 12
LEAST_WEIGHT = 1e-200
"""An expert with less in all stays as it was: quotients of such numbers would be noise."""


class LinearExperts(Experts):
    """Experts N(y; x beta_e + b_e, sigma_e^2), by weighted ridge regression in closed form.

    The M step is exact. With s the standard deviations of the columns and s_y that of the target, it maximises, for
    each output,

        sum_n w_n log N(y_n | x_n beta + b, sigma^2)
        - alpha / 2 (||s beta||^2 / sigma^2 + s_y^2 / sigma^2 - 1 + log(sigma^2 / s_y^2)),

    hence sigma^2 = (sum_n w_n r_n^2 + alpha ||s beta||^2 + alpha s_y^2) / (sum_n w_n + alpha), not below the floor.
    The penalty is the ridge whose unit is that of the residuals, and the evidence of alpha pseudo-rows as spread as
    all targets are. It vanishes as rows come: over 100 rows the default moves coefficients by some 1e-4 of themselves.
    But an expert of a few rows that it fits exactly cannot claim to be sure, which without it raises the likelihood as
    far as the floor lets it.

    Memory and time of a fit grow with the square of the number of columns; for thousands of sparse columns, pass a
    scikit-learn estimator such as `Ridge(solver="sparse_cg")` instead.

    Args:
        alpha: weight of the penalty, in rows; 0 for maximum likelihood.
        variance_floor: least variance, as a share of that of the target; keeps the likelihood finite where alpha is 0.

    Source: Jordan & Jacobs, "Hierarchical mixtures of experts and the EM algorithm" (1994), section 4; the prior of
    variances as in Fraley & Raftery, "Bayesian regularization for normal mixture estimation" (2007), much weaker.
    """

    coef_EMD_: Array
    """Slopes, in the units of X and y."""
    level_EM_: Array
    """Means at `columns_.origin_D`."""
    variance_EM_: Array
    """sigma^2."""
    columns_: Scale
    targets_: Scale
    moment_EPP_: Array
    """Sums of the rows that the experts were fitted to, `moments`; online steps go on from them."""

    def __init__(self, alpha: float = 1e-2, variance_floor: float = 1e-6) -> None:
        self.alpha = alpha
        self.variance_floor = variance_floor

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def started(self, table: Table, n_experts: int) -> Self:
        check(self.alpha >= 0, "alpha", "must not be negative", self.alpha)
        check(self.variance_floor > 0, "variance_floor", "must be positive", self.variance_floor)
        check(table.num_classes is None, "expert", "must predict classes", "LinearExperts", "use LogisticExperts")
        one = copy(self)
        one.columns_ = Scale.of(table.X, table.weight_N)
        one.targets_ = Scale.of(table.y, table.weight_N)
        outputs, features = table.y.shape[1], table.X.shape[1]
        one.coef_EMD_ = np.zeros((1, outputs, features))
        one.level_EM_, one.variance_EM_ = np.zeros((1, outputs)), np.ones((1, outputs))
        new = one.updated(table, table.weight_N[:, None]).only(np.zeros(n_experts, dtype=int))
        new.moment_EPP_ = np.zeros_like(new.moment_EPP_)
        return new

    @one_thread
    def updated(self, table: Table, weight_NE: Array) -> Self:
        return self._fitted_to(moments(table.X, table.y, weight_NE, self.columns_, self.targets_))

    @one_thread
    def partially_updated(self, table: Table, weight_NE: Array, keep: float) -> Self:
        new_EPP = moments(table.X, table.y, weight_NE, self.columns_, self.targets_)
        return self._fitted_to(keep * self.moment_EPP_ + new_EPP)

    @property
    def online(self) -> bool:
        return True

    def _fitted_to(self, moment_EPP: Array) -> Self:
        new = copy(self)
        new.moment_EPP_ = moment_EPP
        new.coef_EMD_, new.level_EM_ = self.coef_EMD_.copy(), self.level_EM_.copy()
        new.variance_EM_ = self.variance_EM_.copy()
        unit_D, unit_M = self.columns_.unit_D, self.targets_.unit_D
        for expert in np.flatnonzero(moment_EPP[:, 0, 0] > LEAST_WEIGHT):
            line = fit_line(moment_EPP[expert], len(unit_D), self.alpha)
            new.coef_EMD_[expert] = line.coef_DM.T * unit_M[:, None] / unit_D
            new.level_EM_[expert] = self.targets_.origin_D + unit_M * line.level_M
            new.variance_EM_[expert] = unit_M**2 * np.maximum(line.variance_M, self.variance_floor)
        return new

    @property
    def intercept_EM_(self) -> Array:
        """Means at x = 0."""
        return self.level_EM_ - self.coef_EMD_ @ self.columns_.origin_D

    @property
    def penalty(self) -> float:
        slope_EM = ((self.coef_EMD_ * self.columns_.unit_D) ** 2).sum(axis=2)
        share_EM = self.targets_.unit_D**2 / self.variance_EM_
        return 0.5 * self.alpha * float((slope_EM / self.variance_EM_ + share_EM - 1 - np.log(share_EM)).sum())

    @property
    def n_parameters(self) -> float:
        return self.coef_EMD_.size + self.level_EM_.size + self.variance_EM_.size

    def only(self, keep_E: Array) -> Self:
        new = copy(self)
        new.coef_EMD_, new.level_EM_ = self.coef_EMD_[keep_E], self.level_EM_[keep_E]
        new.variance_EM_, new.moment_EPP_ = self.variance_EM_[keep_E], self.moment_EPP_[keep_E]
        return new

    @one_thread
    def log_density(self, X: Any, y: Array) -> Array:
        log_NE = np.empty((len(y), len(self.coef_EMD_)))
        constant_E = -0.5 * np.log(2 * np.pi * self.variance_EM_).sum(axis=1)
        for block in gen_batches(len(y), ROWS):
            residual_NEM = self.output(X[block]) - y[block, None]
            np.einsum("nem,nem,em->ne", residual_NEM, residual_NEM, -0.5 / self.variance_EM_, out=log_NE[block])
            log_NE[block] += constant_E
        return log_NE

    def output(self, X: Any) -> Array:
        experts, outputs, _ = self.coef_EMD_.shape
        return self._lines(X, self.coef_EMD_.reshape(experts * outputs, -1), self.level_EM_.ravel()).reshape(
            -1, experts, outputs
        )

    def output_of(self, expert: int, X: Any) -> Array:
        return self._lines(X, self.coef_EMD_[expert], self.level_EM_[expert])

    @one_thread
    def _lines(self, X: Any, coef_LD: Array, level_L: Array) -> Array:
        """Dense columns are centred before they are multiplied, so that means far from 0 cost no digits."""
        if not isinstance(X, np.ndarray):
            level_L = level_L - coef_LD @ self.columns_.origin_D
        out_NL = np.empty((X.shape[0], len(coef_LD)))
        for block in gen_batches(X.shape[0], ROWS):
            x_ND = X[block]
            np.add(_centred(x_ND, self.columns_.origin_D) @ coef_LD.T, level_L, out=out_NL[block])
        return out_NL

    def variance(self, X: Any) -> Array:
        return self.variance_EM_[None]


def _centred(x_ND: Any, origin_D: Array) -> Any:
    return x_ND - origin_D if isinstance(x_ND, np.ndarray) else x_ND.astype(np.float64)
