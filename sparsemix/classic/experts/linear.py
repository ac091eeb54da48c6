"""Linear regression experts in closed form, all fitted together."""

from __future__ import annotations

from copy import copy
from typing import Any, Self

import numpy as np

from sparsemix.classic.parts import Array, Experts, Table


class LinearExperts(Experts):
    """Experts N(y; x beta_e + b_e, sigma_e^2), by weighted ridge regression in closed form.

    The M step is exact: with weights w it maximises sum_n w_n log N(y_n | x_n beta + b, sigma^2) -
    alpha ||s beta||^2 / (2 sigma^2), s the standard deviations of the columns, hence sigma^2 = (sum_n w_n r_n^2 +
    alpha ||s beta||^2) / sum_n w_n, not below the floor.

    Args:
        alpha: ridge penalty in standardised columns, in rows: what a pseudo-row of weight alpha for each column adds.
        variance_floor: least variance, as a share of that of the target.

    Source: Jordan & Jacobs (1994), section 4.
    """

    def __init__(self, alpha: float = 1e-3, variance_floor: float = 1e-6) -> None:
        self.alpha = alpha
        self.variance_floor = variance_floor

    def started(self, table: Table, n_experts: int) -> Self:
        new = copy(self)
        total = table.weight_N.sum()
        mean_D = table.weight_N @ table.X / total
        new.scale_D_ = np.sqrt(table.weight_N @ (table.X - mean_D) ** 2 / total)
        variance_M = table.weight_N @ (table.y - table.weight_N @ table.y / total) ** 2 / total
        new.floor_M_ = self.variance_floor * variance_M
        new.coef_EMD_ = np.zeros((n_experts, table.y.shape[1], table.X.shape[1]))
        new.intercept_EM_ = np.zeros((n_experts, table.y.shape[1]))
        new.variance_EM_ = np.ones((n_experts, table.y.shape[1]))
        return new.updated(table, np.repeat(table.weight_N[:, None], n_experts, axis=1))

    def updated(self, table: Table, weight_NE: Array) -> Self:
        new = copy(self)
        new.coef_EMD_, new.intercept_EM_ = self.coef_EMD_.copy(), self.intercept_EM_.copy()
        new.variance_EM_ = self.variance_EM_.copy()
        for expert, weight_N in enumerate(weight_NE.T):
            if weight_N.sum() > 0:
                new._fit_one(expert, table, weight_N)
        return new

    def _fit_one(self, expert: int, table: Table, weight_N: Array) -> None:
        total = weight_N.sum()
        x_D, y_M = weight_N @ table.X / total, weight_N @ table.y / total
        x_ND, y_NM = table.X - x_D, table.y - y_M
        ridge_D = np.maximum(self.alpha * self.scale_D_**2, np.finfo(float).tiny)
        gram_DD = (x_ND * weight_N[:, None]).T @ x_ND + np.diag(ridge_D)
        coef_DM = np.linalg.lstsq(gram_DD, (x_ND * weight_N[:, None]).T @ y_NM, rcond=None)[0]
        squares_M = weight_N @ (y_NM - x_ND @ coef_DM) ** 2 + ridge_D @ coef_DM**2
        self.coef_EMD_[expert] = coef_DM.T
        self.intercept_EM_[expert] = y_M - x_D @ coef_DM
        self.variance_EM_[expert] = np.maximum(squares_M / total, self.floor_M_)

    @property
    def penalty(self) -> float:
        return float((self.alpha * self.scale_D_**2 * self.coef_EMD_**2 / (2 * self.variance_EM_[:, :, None])).sum())

    @property
    def n_parameters(self) -> float:
        return self.coef_EMD_.size + self.intercept_EM_.size + self.variance_EM_.size

    def only(self, keep_E: Array) -> Self:
        new = copy(self)
        new.coef_EMD_, new.intercept_EM_ = self.coef_EMD_[keep_E], self.intercept_EM_[keep_E]
        new.variance_EM_ = self.variance_EM_[keep_E]
        return new

    def log_density(self, X: Any, y: Array) -> Array:
        squares_NEM = (y[:, None] - self.output(X)) ** 2 / self.variance_EM_
        return -0.5 * (squares_NEM + np.log(2 * np.pi * self.variance_EM_)).sum(axis=2)

    def output(self, X: Any) -> Array:
        experts, outputs, features = self.coef_EMD_.shape
        out = X @ self.coef_EMD_.reshape(experts * outputs, features).T
        return out.reshape(len(out), experts, outputs) + self.intercept_EM_

    def output_of(self, expert: int, X: Any) -> Array:
        return X @ self.coef_EMD_[expert].T + self.intercept_EM_[expert]

    def variance(self, X: Any) -> Array:
        return self.variance_EM_[None]
