"""One expert for numbers: a fitted regressor and its noise, as a normal density."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils import get_tags

from sparsemix.classic.experts.gaussian_process import fit_process, process_of
from sparsemix.classic.parts import Array, Table
from sparsemix.classic.wrapping.counting import count_parameters
from sparsemix.classic.wrapping.weighting import fit_weighted, partial_fit_weighted


class NormalExpert(NamedTuple):
    """p(y | x) = N(y; f(x), v(x) + noise), v(x) the variance of f itself where f is a Gaussian process, else 0."""

    template: Any
    """Not fitted."""
    seed: int
    floor_M: Array
    """Least noise."""
    regressors: tuple[Any, ...] = ()
    """One for all outputs, or one for each."""
    noise_M: Array | float = 0.0
    total: float = 0.0
    """Weight of the rows that taught the noise online."""

    def fitted(self, table: Table, weight_N: Array) -> NormalExpert:
        """The regressors fitted to weighted rows; the noise as it was."""
        if process_of(self.template) is not None:
            noise_M = np.broadcast_to(self.noise_M, table.y.shape[1:])
            pairs = zip(table.y.T, noise_M, strict=True)
            return self._replace(
                regressors=tuple(fit_process(self.template, table.X, y_N, weight_N, noise) for y_N, noise in pairs)
            )
        targets = self._targets(table.y)
        return self._replace(
            regressors=tuple(fit_weighted(self.template, table.X, y, weight_N, self.seed) for y in targets)
        )

    def _targets(self, y_NM: Array) -> list[Array]:
        if y_NM.shape[1] > 1 and get_tags(self.template).target_tags.multi_output:
            return [y_NM]
        return list(y_NM.T)

    def said(self, X: Any) -> Array:
        """Mean and variance of f, (N, 2, M)."""
        if process_of(self.template) is not None:
            return np.stack([process.mean_and_variance(X) for process in self.regressors], axis=-1).swapaxes(0, 1)
        columns = [np.asarray(fitted.predict(X), dtype=np.float64) for fitted in self.regressors]
        mean_NM = np.column_stack(columns)
        return np.stack([mean_NM, np.zeros_like(mean_NM)], axis=1)

    def settled(self, said: Array, y_NM: Array, weight_N: Array, held_out: bool) -> NormalExpert:
        """The noise learned from what the expert says of rows.

        Of rows that f was fitted to, the expected square of y - f is what remains plus what f is not sure of; of rows
        held out, what remains holds both.
        """
        own_NM = said[:, 1] if not held_out else -said[:, 1]
        noise_M = np.average((y_NM - said[:, 0]) ** 2 + own_NM, axis=0, weights=weight_N)
        return self._replace(noise_M=np.maximum(noise_M, self.floor_M), total=float(weight_N.sum()))

    def taught(self, table: Table, weight_N: Array, keep: float) -> NormalExpert:
        """Regressors taught some rows by `partial_fit`; the noise from what they said of them before."""
        squares_NM = (table.y - self.said(table.X)[:, 0]) ** 2
        total = keep * self.total + weight_N.sum()
        noise_M = np.maximum((keep * self.total * self.noise_M + weight_N @ squares_NM) / total, self.floor_M)
        regressors = deepcopy(self.regressors)
        for regressor, y in zip(regressors, self._targets(table.y), strict=True):
            partial_fit_weighted(regressor, table.X, y, weight_N, self.seed)
        return self._replace(regressors=regressors, noise_M=noise_M, total=float(total))

    def log_density(self, said: Array, y_NM: Array) -> Array:
        variance_NM = said[:, 1] + self.noise_M
        return -0.5 * ((y_NM - said[:, 0]) ** 2 / variance_NM + np.log(2 * np.pi * variance_NM)).sum(axis=1)

    def output(self, X: Any) -> Array:
        return self.said(X)[:, 0]

    def variance(self, X: Any) -> Array:
        """(1, M), or (N, M) where f is a Gaussian process."""
        constant_M = np.atleast_1d(self.noise_M)[None]
        return constant_M if process_of(self.template) is None else self.said(X)[:, 1] + constant_M

    @property
    def n_parameters(self) -> float:
        is_process = process_of(self.template) is not None
        models = [one.fitted for one in self.regressors] if is_process else self.regressors
        return sum(count_parameters(model, "expert") for model in models) + len(self.floor_M)
