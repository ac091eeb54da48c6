"""Gaussian processes as experts: a weight is a noise, and what is not known widens the density."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.pipeline import Pipeline

from sparsemix.classic.experts.likelihood_search import onward, wide
from sparsemix.classic.parts import Array
from sparsemix.classic.wrapping.seeding import fresh

USUAL = "fmin_l_bfgs_b"
"""The `optimizer` of a process whose user has named none."""


def process_of(estimator: Any) -> Any:
    """The Gaussian process that an estimator is or, a pipeline, ends with; None: there is none."""
    last = estimator.steps[-1][1] if isinstance(estimator, Pipeline) else estimator
    return last if isinstance(last, GaussianProcessRegressor) else None


class Process(NamedTuple):
    """A fitted Gaussian process of one output."""

    fitted: Any
    unit: float
    """Of the targets inside the process, which may standardise them."""

    def mean(self, X: Any) -> Array:
        """(N, 1)."""
        return np.asarray(self.fitted.predict(X), dtype=np.float64)[:, None]

    def mean_and_variance(self, X: Any) -> tuple[Array, Array]:
        """Of the function without noise, (N, 1) each."""
        process = process_of(self.fitted)
        X = self.fitted[:-1].transform(X) if isinstance(self.fitted, Pipeline) else X
        mean_N, deviation_N = process.predict(X, return_std=True)
        one_D = X[:1]
        # Of the parts of a kernel only white noise tells a point from its equal, so this difference is the noise.
        white = process.kernel_.diag(one_D)[0] - process.kernel_(one_D, one_D)[0, 0]
        return mean_N[:, None], np.maximum(deviation_N**2 - white * self.unit**2, 0)[:, None]

    def variance(self, X: Any) -> Array:
        """Of the function without noise, (N, 1)."""
        return self.mean_and_variance(X)[1]


def fit_process(
    estimator: Any, X: Any, y_N: Array, weight_N: Array, noise: float, before: Process | None = None
) -> Process:
    """A process fitted to rows whose noise is larger the smaller their weight.

    A row of weight h < 1 gets, beside the noise that the estimator itself states for all (its `alpha`, a
    `WhiteKernel`), noise (1 / h - 1), so that all in all its noise is that of a whole row divided by h. A row of
    weight h > 1 gets alpha / h.

    Hyperparameters are sought from several places at first, and later from where they were. An optimizer other than
    scikit-learn's usual one is left alone, and starts from the estimator's kernel each time.

    Args:
        noise: of a whole row, as the expert knew it before.
        before: what the estimator was to other weights of the rows.

    Source: Tresp, "Mixtures of Gaussian processes" (2001).
    """
    new = fresh(estimator)
    process = process_of(new)
    unit = float(y_N.std()) if process.normalize_y and np.ptp(y_N) > 0 else 1.0
    whole = np.maximum(noise / unit**2, process.alpha)
    process.set_params(alpha=process.alpha / np.maximum(weight_N, 1) + whole * (1 / np.minimum(weight_N, 1) - 1))
    own = {"optimizer": process.optimizer, "kernel": process.kernel}
    if process.optimizer == USUAL and before is not None:
        process.set_params(optimizer=onward, kernel=process_of(before.fitted).kernel_)
    elif process.optimizer == USUAL:
        process.set_params(optimizer=wide)
    new.fit(X, y_N)
    process.set_params(**own)
    return Process(new, unit)
