"""The normalised Gaussian gate: each expert owns a cloud of rows."""

from __future__ import annotations

from copy import copy
from typing import Any, Self

import numpy as np
from sklearn.utils import Tags

from sparsemix.checks import check
from sparsemix.classic.gates.constant import log_shares
from sparsemix.classic.gates.covariance import Covariance, Diagonal, Full, Moments
from sparsemix.classic.numeric.design import Design, reading_tags
from sparsemix.classic.numeric.threads import one_thread
from sparsemix.classic.parts import Array, Gate, Table

COVARIANCES: dict[str, type[Full] | type[Diagonal]] = {"full": Full, "diag": Diagonal}


class GaussianGate(Gate):
    """p(x, e) = pi_e N(z; mu_e, Sigma_e) on standardised columns z (`Design`), so p(e | x) = p(x, e) / sum_i p(x, i).

    It models x too, and EM maximises the likelihood of (x, y); so the M step is in closed form. The covariance has
    `alpha` pseudo-rows of covariance I: with penalty alpha / 2 sum_e (tr Sigma_e^-1 + log |Sigma_e|), what maximises is
    Sigma_e = (scatter_e + alpha I) / (n_e + alpha), never singular.

    Args:
        covariance: "full", or "diag" for columns that are independent within an expert.
        alpha: pseudo-rows of each expert, at least 1e-6.
        features: a transformer of scikit-learn that makes the columns z is of.

    Source: Xu, Jordan & Hinton, "An alternative model for mixtures of experts" (1995).
    """

    design_: Design
    """How x becomes z."""
    moments_: Moments
    """Sums over the rows fitted."""
    mean_ED_: Array
    """mu, in standardised columns."""
    covariance_: Covariance
    """Sigma, in standardised columns."""

    def __init__(self, covariance: str = "full", alpha: float = 1.0, features: Any = None) -> None:
        self.covariance = covariance
        self.alpha = alpha
        self.features = features

    def __sklearn_tags__(self) -> Tags:
        return reading_tags(super().__sklearn_tags__(), self.features)

    def started(self, table: Table, n_experts: int) -> Self:
        check(self.covariance in COVARIANCES, "covariance", "must be 'full' or 'diag'", repr(self.covariance))
        check(self.alpha >= 1e-6, "alpha", "must be at least 1e-6, or covariances may be singular", self.alpha)
        new = copy(self)
        new.design_ = Design(self.features).fitted(table.X, table.weight_N)
        new.mean_ED_ = np.zeros((n_experts, len(new.design_.scale_D_)))
        nothing = COVARIANCES[self.covariance].squares(np.zeros((n_experts, 0)), np.zeros((0, new.mean_ED_.shape[1])))
        return new._learned(Moments(np.zeros(n_experts), new.mean_ED_, nothing))

    @property
    def models_x(self) -> bool:
        return True

    def prepared(self, X: Any) -> Any:
        return self.design_.columns(X)

    def updated(self, table: Table, responsibility_NE: Array) -> Self:
        return self._learned(self._moments(table, responsibility_NE))

    @property
    def online(self) -> bool:
        return True

    def partially_updated(self, table: Table, responsibility_NE: Array, keep: float) -> Self:
        return self._learned(self._moments(table, responsibility_NE).after(self.moments_, keep))

    @one_thread
    def _moments(self, table: Table, responsibility_NE: Array) -> Moments:
        weight_E, sum_ED, square = (np.zeros_like(sums) for sums in self.moments_)
        for block, z_BD in self.design_.columns(table.X).blocks():
            weight_EB = responsibility_NE[block].T * table.weight_N[block]
            weight_E += weight_EB.sum(axis=1)
            sum_ED += weight_EB @ z_BD
            square += COVARIANCES[self.covariance].squares(weight_EB, z_BD)
        return Moments(weight_E, sum_ED, square)

    def _learned(self, moments: Moments) -> Self:
        """The gate of these moments; an expert without rows stays where it was."""
        new = copy(self)
        new.moments_ = moments
        weight_E1 = moments.weight_E[:, None]
        new.mean_ED_ = np.where(weight_E1 > 0, moments.sum_ED / np.where(weight_E1 > 0, weight_E1, 1.0), self.mean_ED_)
        new.covariance_ = COVARIANCES[self.covariance].fitted(moments, new.mean_ED_, self.alpha)
        return new

    @one_thread
    def log_scores(self, X: Any) -> Array:
        distance_NE = self.covariance_.distances(self.mean_ED_, self.design_.columns(X))
        log_norm_E = self.mean_ED_.shape[1] * np.log(2 * np.pi) + self.covariance_.log_determinant_E
        return log_shares(self.moments_.weight_E) - 0.5 * (distance_NE + log_norm_E)

    @property
    def penalty(self) -> float:
        return 0.5 * self.alpha * (self.covariance_.inverse_trace + float(self.covariance_.log_determinant_E.sum()))

    @property
    def n_parameters(self) -> float:
        """Those that p(e | x) shows, as BIC and AIC are of p(y | x): log-odds to one expert, quadratic in z."""
        experts = len(self.mean_ED_)
        return (experts - 1) * (1 + (self.mean_ED_.size + self.covariance_.n_parameters) / experts)

    def only(self, keep_E: Array) -> Self:
        new = copy(self)
        new.moments_ = self.moments_.only(keep_E)
        new.mean_ED_, new.covariance_ = self.mean_ED_[keep_E], self.covariance_.only(keep_E)
        return new
