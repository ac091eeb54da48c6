"""The M step of one expert, with rows held out or not."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from sklearn.model_selection import KFold
from sklearn.utils import _safe_indexing

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
    for train, test in KFold(folds, shuffle=True, random_state=expert.seed).split(kept_N):
        other = expert.fitted(rows.rows(train), weight_kept_N[train])
        said[kept_N[test]] = other.said(_safe_indexing(rows.X, test))
    new = new.settled(said[kept_N], rows.y, weight_kept_N, held_out=True)
    return Outcome(new, new.log_density(said, table.y))


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
