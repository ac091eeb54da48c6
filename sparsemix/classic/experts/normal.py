"""One expert for numbers: a fitted regressor and its noise, as a normal density."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, NamedTuple

import numpy as np

from sparsemix.classic.experts.functions import Function, fit_functions, targets_of
from sparsemix.classic.parts import Array, Table
from sparsemix.classic.wrapping.counting import count_parameters
from sparsemix.classic.wrapping.weighting import partial_fit_weighted


class NormalExpert(NamedTuple):
    """p(y | x) = N(y; f(x), v(x) + noise), v(x) the variance of f itself where f is a Gaussian process, else 0."""

    template: Any
    """Not fitted."""
    seed: int
    floor_M: Array
    """Least noise."""
    functions: tuple[Function, ...] = ()
    """One of all outputs, or one of each."""
    noise_M: Array | float = 0.0
    total: float = 0.0
    """Weight of the rows that taught the noise online."""

    def fitted(self, table: Table, weight_N: Array) -> NormalExpert:
        """The functions fitted to weighted rows; the noise as it was."""
        noise_M = np.broadcast_to(self.noise_M, table.y.shape[1:])
        functions = fit_functions(self.template, table, weight_N, self.seed, noise_M, self.functions)
        return self._replace(functions=functions)

    def said(self, X: Any) -> Array:
        """Mean and variance of f, (N, 2, M)."""
        means, variances = zip(*(function.mean_and_variance(X) for function in self.functions), strict=True)
        return np.stack([np.hstack(means), np.hstack(variances)], axis=1)

    def left_out(self, y_NM: Array) -> Array | None:
        """The same of each row of the fit by the other rows; None: that would need further fits."""
        pairs = [function.left_out() for function in self.functions]
        known = [pair for pair in pairs if pair is not None]
        if len(known) < len(pairs):
            return None
        residuals, variances = zip(*known, strict=True)
        return np.stack([y_NM - np.hstack(residuals), np.hstack(variances)], axis=1)

    def settled(self, said: Array, y_NM: Array, weight_N: Array, held_out: bool) -> NormalExpert:
        """The noise learned from what the expert says of rows.

        Of rows that f was fitted to, the expected square of y - f is what remains plus what f is not sure of; of rows
        held out, what remains holds both.
        """
        own_NM = said[:, 1] if not held_out else -said[:, 1]
        noise_M = np.average((y_NM - said[:, 0]) ** 2 + own_NM, axis=0, weights=weight_N)
        return self._replace(noise_M=np.maximum(noise_M, self.floor_M), total=float(weight_N.sum()))

    def taught(self, table: Table, weight_N: Array, keep: float) -> NormalExpert:
        """Functions taught some rows by `partial_fit`; the noise from what they said of them before."""
        squares_NM = (table.y - self.output(table.X)) ** 2
        total = keep * self.total + weight_N.sum()
        noise_M = np.maximum((keep * self.total * self.noise_M + weight_N @ squares_NM) / total, self.floor_M)
        functions = deepcopy(self.functions)
        for function, y in zip(functions, targets_of(self.template, table.y), strict=True):
            partial_fit_weighted(function.fitted, table.X, y, weight_N, self.seed)
        return self._replace(functions=functions, noise_M=noise_M, total=float(total))

    def log_density(self, said: Array, y_NM: Array) -> Array:
        variance_NM = said[:, 1] + self.noise_M
        return -0.5 * ((y_NM - said[:, 0]) ** 2 / variance_NM + np.log(2 * np.pi * variance_NM)).sum(axis=1)

    def mean(self, said: Array) -> Array:
        """E[y | x], (N, M)."""
        return said[:, 0]

    def output(self, X: Any) -> Array:
        return np.hstack([function.mean(X) for function in self.functions])

    def variance(self, X: Any) -> Array:
        """(1, M), or (N, M) where f is a Gaussian process."""
        return np.hstack([function.variance(X) for function in self.functions]) + np.atleast_1d(self.noise_M)

    @property
    def n_parameters(self) -> float:
        return sum(count_parameters(function.fitted, "expert") for function in self.functions) + len(self.floor_M)
