"""What starts look at: some columns and all targets as numbers of one scale, and weighted moments of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from sparsemix.classic.design import Design
from sparsemix.classic.parts import Array, Table

MOST = 48
"""Seen that a start looks at; of more, those that go with the targets most."""
BLOCK = 4096
"""Rows at a time: their products stay in cache."""


class Seen(NamedTuple):
    """Rows as starts see them: dense, standardised by the weights."""

    z_ND: Array
    """At most `MOST` columns, in the table's precision."""
    t_NM: Array
    """Standardised targets; of K classes, the indicators of all but the last."""
    weight_N: Array
    classes: bool


def seen(table: Table) -> Seen:
    """The columns and targets of a table that tell most."""
    t_NM = table.y if table.num_classes is None else np.eye(table.num_classes)[table.y][:, :-1]
    t_NM = standardised(np.asarray(t_NM, dtype=np.float64), table.weight_N)
    X = _numbers(table)
    chosen_D = _telling(X, t_NM, table.weight_N) if X.shape[1] > MOST else slice(None)
    z_ND = X[:, chosen_D]
    z_ND = z_ND.toarray() if sparse.issparse(z_ND) else z_ND
    return Seen(standardised(z_ND, table.weight_N), t_NM, table.weight_N, table.num_classes is not None)


def _numbers(table: Table) -> Any:
    """X itself, if it is numbers and all are there; otherwise the columns of a `Design`."""
    if sparse.issparse(table.X) or (isinstance(table.X, np.ndarray) and np.isfinite(table.X.sum())):
        return table.X
    return Design().fitted(table.X, table.weight_N).columns(table.X).dense()


def standardised(x_ND: Array, weight_N: Array) -> Array:
    """Weighted mean 0 and standard deviation 1; constant columns 0."""
    total = weight_N.sum()
    mean_D = weight_N @ x_ND / total
    variance_D = sum(weight_N[rows] @ (x_ND[rows] - mean_D) ** 2 for rows in blocks(len(x_ND))) / total
    still_D = variance_D <= (1e-12 * np.abs(mean_D)) ** 2
    scale_D = np.where(still_D, 0.0, 1 / np.sqrt(np.where(still_D, 1.0, variance_D)))
    return ((x_ND - mean_D.astype(x_ND.dtype)) * scale_D.astype(x_ND.dtype)).astype(x_ND.dtype, copy=False)


def blocks(num_rows: int) -> Iterator[slice]:
    """All rows, some at a time."""
    return (slice(first, first + BLOCK) for first in range(0, num_rows, BLOCK))


def _telling(X: Any, t_NM: Array, weight_N: Array) -> Array:
    """The columns that, or whose squares, go with the targets or with the targets' squares most, in their order."""
    total, outputs = weight_N.sum(), t_NM.shape[1]
    told_NQ = np.column_stack([np.ones(len(t_NM)), t_NM, t_NM**2 - weight_N @ t_NM**2 / total])
    first_DQ = np.zeros((X.shape[1], told_NQ.shape[1]))
    second_DQ = np.zeros_like(first_DQ)
    for rows in blocks(len(t_NM)):
        x_ND = X[rows]
        told = told_NQ[rows] * weight_N[rows, None] / total
        first_DQ += x_ND.T @ told
        second_DQ += (x_ND.multiply(x_ND) if sparse.issparse(x_ND) else x_ND * x_ND).T @ told
    mean_D = first_DQ[:, 0]
    variance_D = np.maximum(second_DQ[:, 0] - mean_D**2, 0.0)
    bent_DM = second_DQ[:, 1 : 1 + outputs] - 2 * mean_D[:, None] * first_DQ[:, 1 : 1 + outputs]
    straight_D = (first_DQ[:, 1:] ** 2).sum(axis=1)
    spread_D = np.where(variance_D > 1e-12 * mean_D**2, variance_D, np.inf)
    score_D = straight_D / spread_D + (bent_DM**2).sum(axis=1) / (2 * spread_D**2)
    return np.sort(np.argsort(-score_D, kind="stable")[:MOST])
