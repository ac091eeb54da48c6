"""Gaussian processes as experts: a weight is a noise, and what is not known widens the density."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.pipeline import Pipeline

from sparsemix.classic.parts import Array
from sparsemix.classic.wrapping.seeding import fresh


def process_of(estimator: Any) -> Any:
    """The Gaussian process that an estimator is or, a pipeline, ends with; None: there is none."""
    last = estimator.steps[-1][1] if isinstance(estimator, Pipeline) else estimator
    return last if isinstance(last, GaussianProcessRegressor) else None


class Process(NamedTuple):
    """A fitted Gaussian process of one output."""

    fitted: Any
    unit: float
    """Of the targets inside the process, which may standardise them."""

    def mean_and_variance(self, X: Any) -> tuple[Array, Array]:
        """Of the function without noise, (N,) each."""
        process = process_of(self.fitted)
        X = self.fitted[:-1].transform(X) if isinstance(self.fitted, Pipeline) else X
        mean_N, deviation_N = process.predict(X, return_std=True)
        one_D = X[:1]
        # Of the parts of a kernel only white noise tells a point from its equal, so this difference is the noise.
        white = process.kernel_.diag(one_D)[0] - process.kernel_(one_D, one_D)[0, 0]
        return mean_N, np.maximum(deviation_N**2 - white * self.unit**2, 0)


def fit_process(estimator: Any, X: Any, y_N: Array, weight_N: Array, noise: float) -> Process:
    """A process fitted to rows whose noise is larger the smaller their weight.

    A row of weight h < 1 gets, beside the noise that the estimator itself states for all (its `alpha`, a
    `WhiteKernel`), noise (1 / h - 1), so that all in all its noise is that of a whole row divided by h. A row of
    weight h > 1 gets alpha / h.

    Args:
        noise: of a whole row, as the expert knew it before.

    Source: Tresp, "Mixtures of Gaussian processes" (2001).
    """
    new = fresh(estimator)
    process = process_of(new)
    unit = float(y_N.std()) if process.normalize_y and np.ptp(y_N) > 0 else 1.0
    whole = np.maximum(noise / unit**2, process.alpha)
    process.set_params(alpha=process.alpha / np.maximum(weight_N, 1) + whole * (1 / np.minimum(weight_N, 1) - 1))
    return Process(new.fit(X, y_N), unit)
