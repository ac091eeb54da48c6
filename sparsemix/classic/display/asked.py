"""What pictures ask of a fitted mixture, and which rows of its table they show."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import _num_samples, check_is_fitted

from sparsemix.checks import check
from sparsemix.classic.display.grid import numbers
from sparsemix.classic.estimators.fitted import FittedMoE
from sparsemix.classic.estimators.reading import Accepts, read_X
from sparsemix.classic.parts import Array
from sparsemix.classic.predictive.pooling import pooled_gate

POINTS = 600
"""Rows shown at most, evenly taken from the table."""


class Rows(NamedTuple):
    """Some rows of a table."""

    X: Any
    y: Any
    """Their targets, None where there are none."""
    place_NF: Array
    """Their values in the columns of the picture."""


def check_mixture(estimator: Any) -> None:
    """Raise `ValueError` unless it is a mixture of experts, `NotFittedError` unless it was fitted."""
    remedy = "of a pipeline or a search, pass the mixture inside and the X that it is given"
    ours = isinstance(estimator, FittedMoE)
    check(ours, "estimator", "must be a mixture of experts", type(estimator).__name__, remedy)
    check_is_fitted(estimator)


def weights(estimator: FittedMoE, X: Any) -> Array:
    """How much each expert counts in the prediction of each row, (N, E): the gate as `pooling` changes it."""
    pooling: Any = estimator.stack_ if estimator.pooling == "stacking" else estimator.pooling
    check(pooling is not None, "pooling", "must be set before fit to be 'stacking'", "a fit without it")
    with np.errstate(divide="ignore"):
        log_gate_NE = np.log(estimator.gate(X))
    return pooled_gate(log_gate_NE, pooling)


def outputs(estimator: FittedMoE, X: Any) -> Array:
    """What each expert says of each row, (N, E, M)."""
    mixture = estimator.mixture_
    return mixture.experts.output(read_X(estimator, X, Accepts.of(*mixture)))


def shown(X: Any, y: Any, places: tuple[int, ...]) -> Rows:
    """`POINTS` rows at most."""
    rows = np.linspace(0, _num_samples(X) - 1, min(_num_samples(X), POINTS)).astype(int)
    some = _safe_indexing(X, rows)
    place_NF = np.column_stack([numbers(some, place) for place in places])
    return Rows(some, None if y is None else _safe_indexing(y, rows), place_NF)
