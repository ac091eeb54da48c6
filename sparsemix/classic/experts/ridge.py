"""Ridge regression from second moments."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import linalg

from sparsemix.classic.parts import Array

SINGULAR = 1e-11
"""A pivot that elimination leaves below this share of its diagonal, or such an eigenvalue, is rounding."""


class Line(NamedTuple):
    """A fit t = level + coef z in standardised units."""

    coef_DM: Array
    level_M: Array
    variance_M: Array
    """That maximises the penalised likelihood."""


def fit_line(moment_PP: Array, features: int, alpha: float) -> Line:
    """The most probable line of rows whose moments of (1, z, t) these are.

    Args:
        alpha: weight of the pseudo-row that is added for each column, and of the one for the variance.
    """
    total = moment_PP[0, 0]
    mean_P = moment_PP[0, 1:] / total
    centred_PP = moment_PP[1:, 1:] - total * np.outer(mean_P, mean_P)
    gram_DD = centred_PP[:features, :features] + alpha * np.eye(features)
    cross_DM = centred_PP[:features, features:]
    coef_DM = solved(gram_DD, cross_DM)
    squares_M = np.diag(centred_PP)[features:] + (coef_DM * (gram_DD @ coef_DM - 2 * cross_DM)).sum(axis=0)
    level_M = mean_P[features:] - mean_P[:features] @ coef_DM
    return Line(coef_DM, level_M, (np.maximum(squares_M, 0) + alpha) / (total + alpha))


def solved(gram_DD: Array, cross_DM: Array) -> Array:
    """The solution of gram @ coef = cross, the shortest one where many fit best: of columns that repeat others."""
    try:
        factor, lower = linalg.cho_factor(gram_DD, lower=True)
    except linalg.LinAlgError:
        return _shortest(gram_DD, cross_DM)
    if (np.diag(factor) ** 2 <= SINGULAR * np.diag(gram_DD)).any():
        return _shortest(gram_DD, cross_DM)
    return linalg.cho_solve((factor, lower), cross_DM)


def _shortest(gram_DD: Array, cross_DM: Array) -> Array:
    value_D, vector_DD = np.linalg.eigh(gram_DD)
    counts_D = value_D > SINGULAR * value_D[-1]
    inverse_D = np.divide(1, value_D, out=np.zeros_like(value_D), where=counts_D)
    return vector_DD @ (inverse_D[:, None] * (vector_DD.T @ cross_DM))
