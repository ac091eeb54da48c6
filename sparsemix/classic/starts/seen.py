"""What starts look at: some columns and all targets as numbers of one scale."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy import sparse

from sparsemix.classic.numeric.columns import Columns
from sparsemix.classic.numeric.design import Design
from sparsemix.classic.parts import Array, Table

MOST = 48
"""Columns that a start looks at; of more, those that go with the targets most."""
ENOUGH = 20_000.0
"""Different rows that a start needs to grow a mixture; the rest only follow it."""
HASH = 1e4
TOLERATED = 0.1
"""Of the means of standardised columns and of the weight; of rows taken at random it would be 14 standard errors."""
BLOCK = 2048
"""Rows at a time: their products stay in cache."""


class Seen(NamedTuple):
    """Rows as starts see them: dense, standardised by the weights."""

    z_ND: Array
    """At most `MOST` columns, in the table's precision."""
    t_NM: Array
    """Standardised targets; of K classes, the indicators of all but the last."""
    weight_N: Array
    """Scaled to the number of different rows in all, which neither the unit of weights nor rows given twice change."""
    classes: bool

    def only(self, chosen_N: Array) -> Seen:
        """Some of the rows."""
        return self._replace(z_ND=self.z_ND[chosen_N], t_NM=self.t_NM[chosen_N], weight_N=self.weight_N[chosen_N])


def seen(table: Table) -> Seen:
    """The columns and targets of a table that tell most."""
    t_NM = table.y if table.num_classes is None else np.eye(table.num_classes)[table.y][:, :-1]
    t_NM = _dense(Design().fitted(t_NM, table.weight_N).columns(t_NM))
    columns = Design().fitted(table.X, table.weight_N).columns(table.X)
    if columns.shape[1] > MOST:
        columns = _only(columns, _telling(columns, t_NM, table.weight_N))
    z_ND = _dense(columns)
    different = len(np.unique(_places(z_ND, t_NM)[table.weight_N > 0]))
    weight_N = table.weight_N * (different / table.weight_N.sum())
    return Seen(z_ND, t_NM, weight_N, table.num_classes is not None)


def thinned(rows: Seen) -> Array:
    """Indexes of rows of about `ENOUGH` weight in all, or of all rows where they weigh less.

    Rows are taken by a hash of what they hold, the fractional part of a large multiple of their place: not by their
    order, and rows that are equal together. Where few of them weigh much, so that what is taken has not the means of
    all, all are taken.
    """
    total = rows.weight_N.sum()
    if total <= ENOUGH:
        return np.arange(len(rows.weight_N))
    taken_N = np.flatnonzero(HASH * _places(rows.z_ND, rows.t_NM) % 1.0 < ENOUGH / total)
    taken = rows.only(taken_N)
    missed_V = taken.weight_N @ np.column_stack([taken.z_ND, taken.t_NM]) / ENOUGH
    missed = max(np.abs(missed_V).max(), abs(taken.weight_N.sum() / ENOUGH - 1))
    return taken_N if missed < TOLERATED else np.arange(len(rows.weight_N))


def blocks(num_rows: int) -> Iterator[slice]:
    """All rows, some at a time."""
    return (slice(first, first + BLOCK) for first in range(0, num_rows, BLOCK))


def _places(z_ND: Array, t_NM: Array) -> Array:
    """One number for each row that only equal rows share: its values times exp(1), exp(1/2), exp(1/3), ...

    Exponentials of different algebraic numbers are linearly independent over these (Lindemann and Weierstrass), and
    values of tables are algebraic. Added up one by one, since the rounding of a product of matrices depends on the row.
    """
    place_N = np.zeros(len(z_ND))
    for number, value_N in enumerate((*z_ND.T, *t_NM.T), start=1):
        place_N += value_N * np.exp(1 / number)
    return place_N


def _dense(columns: Columns) -> Array:
    """The columns in their own precision; one of zeros where none varies."""
    z_ND = np.zeros((columns.shape[0], max(columns.shape[1], 1)), dtype=columns.raw.dtype)
    for rows, z_BD in columns.blocks():
        z_ND[rows, : columns.shape[1]] = z_BD
    return z_ND


def _only(columns: Columns, chosen: Array) -> Columns:
    return Columns(columns.raw[:, chosen], columns.mean_D[chosen], columns.scale_D[chosen])


def _telling(columns: Columns, t_NM: Array, weight_N: Array) -> Array:
    """The columns that, or whose squares, go with the targets or with the targets' squares most, in their order."""
    share_N, outputs = weight_N / weight_N.sum(), t_NM.shape[1]
    told_NQ = np.column_stack([np.ones(len(t_NM)), t_NM, t_NM**2 - share_N @ t_NM**2]) * share_N[:, None]
    first_QD = columns.transposed_times(told_NQ)
    bent_MD = _squares(columns, told_NQ[:, 1 : 1 + outputs]) - 2 * first_QD[0] * first_QD[1 : 1 + outputs]
    score_D = (first_QD[1:] ** 2).sum(axis=0) + (bent_MD**2).sum(axis=0) / 2
    return np.sort(np.argsort(-score_D, kind="stable")[:MOST])


def _squares(columns: Columns, told_NM: Array) -> Array:
    """told^T z^2, (M, D)."""
    if sparse.issparse(columns.raw):
        squared = Columns(columns.raw.multiply(columns.raw).tocsr(), columns.mean_D, columns.scale_D**2)
        return squared.transposed_times(told_NM)
    return sum((told_NM[rows].T @ z_BD**2 for rows, z_BD in columns.blocks()), np.zeros(()))
