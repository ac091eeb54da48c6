"""The mean of an expert for numbers: functions fitted to weighted rows, known or, of Gaussian processes, in doubt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from sklearn.utils import get_tags

from sparsemix.classic.experts.gaussian_process import Process, fit_process, process_of
from sparsemix.classic.parts import Array, Table
from sparsemix.classic.wrapping.weighting import fit_weighted


class Function(Protocol):
    """A fitted function with some of the outputs, O of them."""

    @property
    def fitted(self) -> Any:
        """The estimator."""
        ...

    def mean(self, X: Any) -> Array:
        """(N, O)."""
        ...

    def mean_and_variance(self, X: Any) -> tuple[Array, Array]:
        """The variance is that of the function, without noise; (N, O) each."""
        ...

    def variance(self, X: Any) -> Array:
        """That of the function, which can be broadcast to (N, O)."""
        ...


class Regressor(NamedTuple):
    """A function that is known: whatever `predict` says."""

    fitted: Any

    def mean(self, X: Any) -> Array:
        """(N, O)."""
        said = np.asarray(self.fitted.predict(X), dtype=np.float64)
        return said.reshape(len(said), -1)

    def mean_and_variance(self, X: Any) -> tuple[Array, Array]:
        """The variance is 0; (N, O) each."""
        mean_NO = self.mean(X)
        return mean_NO, np.zeros_like(mean_NO)

    def variance(self, X: Any) -> Array:
        """Zero, (1, 1)."""
        return np.zeros((1, 1))


def fit_functions(
    template: Any, table: Table, weight_N: Array, seed: int, noise_M: Array, before: Sequence[Any]
) -> tuple[Function, ...]:
    """One function of all outputs, or one of each, where the estimator takes but one.

    Args:
        noise_M: as the expert knew it before.
        before: the functions before, none at first.
    """
    if process_of(template) is None:
        targets = targets_of(template, table.y)
        return tuple(Regressor(fit_weighted(template, table.X, y, weight_N, seed)) for y in targets)
    known: Sequence[Process | None] = before or [None] * len(noise_M)
    outputs = zip(table.y.T, noise_M, known, strict=True)
    return tuple(fit_process(template, table.X, y_N, weight_N, noise, old) for y_N, noise, old in outputs)


def targets_of(template: Any, y_NM: Array) -> list[Array]:
    """The targets as the regressor takes them: all at once, or one at a time."""
    if y_NM.shape[1] > 1 and get_tags(template).target_tags.multi_output:
        return [y_NM]
    return list(y_NM.T)
