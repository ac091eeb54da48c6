"""The mixture for numbers."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import MultiOutputMixin, RegressorMixin
from sklearn.utils.metaestimators import available_if

from sparsemix.checks import check
from sparsemix.classic.estimators.flat import FlatMoE
from sparsemix.classic.estimators.hierarchy import HierarchicalMoE
from sparsemix.classic.estimators.online import OnlineMoE
from sparsemix.classic.estimators.parameters import check_whole
from sparsemix.classic.experts import as_experts
from sparsemix.classic.parts import Array, Experts
from sparsemix.classic.predictive.density import NormalMixture
from sparsemix.classic.predictive.pooling import pooled_density


class Regression(MultiOutputMixin, RegressorMixin, OnlineMoE):
    """What mixtures of regression experts do: p(y | x) = sum_e p(e | x) N(y; mu_e(x), sigma_e^2(x))."""

    _y_dtype = np.float64

    output_shape_: tuple[int, ...]
    """() for targets (N,), (M,) for targets (N, M)."""

    def _as_experts(self, random_state: Any) -> Experts:
        return as_experts(self.expert, n_jobs=self.n_jobs, random_state=random_state, classifier=False)

    def _num_classes(self) -> None:
        return None

    def _meet(self, y: Array) -> None:
        self.output_shape_ = y.shape[1:]

    def _coded(self, y: Array) -> Array:
        rule = f"must have the shape (N{''.join(f', {size}' for size in self.output_shape_)}) of those fitted"
        check(y.shape[1:] == self.output_shape_, "y", rule, f"shape {y.shape}")
        return y.reshape(len(y), -1)

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """The mean of the mixture, sum_e p(e | x) mu_e(x), in the shape of the targets.

        Args:
            return_std: return a pair: means, and standard deviations of the mixture density, by `predict_dist`.
        """
        if return_std:
            distribution = self.predict_dist(X)
            return distribution.mean(), distribution.std()
        mean_NM = self._pooled(X)
        return mean_NM.reshape(len(mean_NM), *self.output_shape_)

    def predict_dist(self, X: Any) -> NormalMixture:
        """p(y | x) of each row: N distributions with methods as scipy's (`mean`, `std`, `cdf`, `ppf`, `rvs` ...)."""
        return pooled_density(self.mixture_, self._read(X), self._pooling(), self.output_shape_)

    def predict_quantiles(self, X: Any, quantiles: Any = (0.05, 0.5, 0.95)) -> Array:
        """Quantiles of p(y | x), of each output by itself: (N, Q) or (N, M, Q); without the last axis for a number."""
        return self.predict_dist(X).ppf(quantiles)

    def sample(self, X: Any, n_samples: int = 1, random_state: Any = None) -> Array:
        """Targets drawn from p(y | x), (N, n_samples) or (N, M, n_samples)."""
        check_whole("n_samples", n_samples, 1)
        return self.predict_dist(X).rvs(n_samples, random_state)

    @available_if(OnlineMoE._can_learn_online)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Learn from further rows by a step of online EM; the first rows are fitted as `fit` does.

        There is this method where experts and gate are online. After `fit` it goes on from there.
        """
        return self._partial_fit(X, y, sample_weight)


class MoERegressor(Regression, FlatMoE):
    """A mixture of regression experts: p(y | x) = sum_e p(e | x) N(y; mu_e(x), sigma_e^2(x))."""


class HierarchicalMoERegressor(Regression, HierarchicalMoE):
    """A mixture of regression experts, the leaves of a tree of gates: p(e | x) is the product over its path."""
