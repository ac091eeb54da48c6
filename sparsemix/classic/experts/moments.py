"""Weighted sums over all rows that linear experts need: of all experts in one pass, 64-bit whatever X is."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy import sparse
from sklearn.utils import gen_batches

from sparsemix.classic.numeric import columns
from sparsemix.classic.parts import Array

ENTRIES = 1 << 15
"""Of a block of dense rows, so that it stays in the cache."""
LEAST_ROWS = 256
"""Of such a block, so that products of wide matrices stay fast."""
SPARSE_ROWS = 1 << 14


class Scale(NamedTuple):
    """Origin and unit of columns: z = (x - origin) / unit."""

    origin_D: Array
    unit_D: Array

    @classmethod
    def of(cls, X: Any, weight_N: Array) -> Scale:
        """Weighted means and standard deviations; the unit of a constant column is 1, the origin of sparse ones 0."""
        mean_D, deviation_D = columns.moments(X, weight_N)
        origin_D = np.zeros(X.shape[1]) if sparse.issparse(X) else mean_D
        return cls(origin_D, np.where(deviation_D > 0, deviation_D, 1.0))


def moments(X: Any, y_NM: Array, weight_NE: Array, scale: Scale, targets: Scale) -> Array:
    """sum_n weight_NE[n, e] v_n v_n^T with v = (1, standardised columns, standardised targets), (E, P, P)."""
    t_NM = (y_NM - targets.origin_D) / targets.unit_D
    sums = _sparse_moments if sparse.issparse(X) else _dense_moments
    return sums(X, t_NM, weight_NE, scale)


def _dense_moments(X: Array, t_NM: Array, weight_NE: Array, scale: Scale) -> Array:
    width = 1 + X.shape[1] + t_NM.shape[1]
    moment_EPP = np.zeros((weight_NE.shape[1], width, width))
    per_unit_D = 1 / scale.unit_D
    for block in gen_batches(len(X), max(LEAST_ROWS, ENTRIES // width)):
        z_ND = (X[block] - scale.origin_D) * per_unit_D
        add_moments(moment_EPP, np.column_stack([np.ones(len(z_ND)), z_ND, t_NM[block]]), weight_NE[block])
    return moment_EPP


def add_moments(moment_EPP: Array, v_NP: Array, weight_NE: Array) -> None:
    """Add sum_n weight_ne v_n v_n^T of some rows."""
    for moment_PP, root_N in zip(moment_EPP, np.sqrt(weight_NE.T), strict=True):
        weighted_NP = v_NP * root_N[:, None]
        moment_PP += weighted_NP.T @ weighted_NP  # numpy sees the symmetry and computes one half


def _sparse_moments(X: Any, t_NM: Array, weight_NE: Array, scale: Scale) -> Array:
    width, features = 1 + X.shape[1] + t_NM.shape[1], slice(1, 1 + X.shape[1])
    others = np.delete(np.arange(width), features)
    moment_EPP = np.zeros((weight_NE.shape[1], width, width))
    for block in gen_batches(X.shape[0], SPARSE_ROWS):
        x_ND, other_NP = X[block].astype(np.float64), np.column_stack([np.ones(len(t_NM[block])), t_NM[block]])
        for moment_PP, weight_N in zip(moment_EPP, weight_NE[block].T, strict=True):
            weighted_NP = other_NP * weight_N[:, None]
            moment_PP[features, features] += (x_ND.T @ (sparse.diags_array(weight_N) @ x_ND)).toarray()
            moment_PP[features, others] += x_ND.T @ weighted_NP
            moment_PP[np.ix_(others, others)] += weighted_NP.T @ other_NP
    moment_EPP[:, others, features] = moment_EPP[:, features, others].swapaxes(1, 2)
    centring_PP = np.eye(width)
    centring_PP[features, 0] = -scale.origin_D
    moment_EPP = centring_PP @ moment_EPP @ centring_PP.T
    unit_P = np.ones(width)
    unit_P[features] = scale.unit_D
    return moment_EPP / (unit_P[:, None] * unit_P)
