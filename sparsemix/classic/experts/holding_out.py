"""The M step of one expert, with rows held out or not."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sparsemix.checks import check
from sparsemix.classic.experts.classes import ClassExpert
from sparsemix.classic.experts.normal import NormalExpert
from sparsemix.classic.parts import Array, Table

NEGLIGIBLE = 1e-3
"""Rows of which an expert has a smaller share than this do not reach its estimator."""

Expert = NormalExpert | ClassExpert


class Outcome(NamedTuple):
    """What came of the M step of one expert."""

    expert: Expert
    held_out_N: Array | None = None
    """Log density of all rows, each said by a fit that did not see it; None without folds."""
    refusal: str = ""
    """Why the estimator could not be fitted to the rows; the expert is then what it was."""


class HeldOut(NamedTuple):
    """Densities of the rows of one table, of fits without them."""

    y: Array
    """The targets of that table."""
    log_NE: Array

    def are_of(self, table: Table) -> bool:
        """Whether they are of the rows of this table and not of others."""
        return self.y is table.y


def fitted(expert: Expert, table: Table, weight_N: Array, folds: int | None) -> Outcome:
    """The expert fitted to its rows; its noise, and the log density of rows, from folds held out where there are any.

    Each row that the expert was fitted to is predicted by the fit of the other folds, and the rest by the fit of all.
    """
    kept_N = np.flatnonzero(weight_N > NEGLIGIBLE * table.weight_N)
    rows, weight_kept_N = table.rows(kept_N), weight_N[kept_N]
    new = expert.fitted(rows, weight_kept_N)
    if folds is None:
        return Outcome(new.settled(new.said(rows.X), rows.y, weight_kept_N, held_out=False))
    said = new.said(table.X)
    fold_N = _folds(len(table.weight_N), folds, expert.seed)[kept_N]
    present = np.unique(fold_N)
    check(len(present) > 1, "cross_fit", "needs rows of two folds", f"{len(kept_N)} rows of one")
    for fold in present:
        own, others = np.flatnonzero(fold_N == fold), np.flatnonzero(fold_N != fold)
        said[kept_N[own]] = expert.fitted(rows.rows(others), weight_kept_N[others]).said(rows.rows(own).X)
    new = new.settled(said[kept_N], rows.y, weight_kept_N, held_out=True)
    return Outcome(new, new.log_density(said, table.y))


def _folds(num_rows: int, folds: int, seed: int) -> Array:
    """The fold of each row: the same in all M steps, so that EM compares fits and not draws."""
    return np.random.RandomState(seed).permutation(num_rows) % folds


def refitted(expert: Expert, table: Table, weight_N: Array, folds: int | None) -> Outcome:
    """`fitted`; an expert without rows stays as it was, and so does one whose estimator refuses those it has."""
    if (weight_N > NEGLIGIBLE * table.weight_N).any():
        try:
            return fitted(expert, table, weight_N, folds)
        except ValueError as error:
            return _as_it_was(expert, table, folds, str(error))
    return _as_it_was(expert, table, folds, "")


def _as_it_was(expert: Expert, table: Table, folds: int | None, refusal: str) -> Outcome:
    log_N = None if folds is None else expert.log_density(expert.said(table.X), table.y)
    return Outcome(expert, log_N, refusal)
