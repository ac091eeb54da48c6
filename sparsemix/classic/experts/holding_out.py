"""The M step of one expert, with rows held out or not."""

from __future__ import annotations

from collections.abc import Sequence
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
    log_density_N: Array
    """Of all rows, each said, where the expert can, by a fit that did not see it."""
    mean_NM: Array
    """Likewise."""
    refusal: str = ""
    """Why the estimator could not be fitted to the rows; the expert is then what it was."""


class Judged(NamedTuple):
    """What M steps found of the rows of one table."""

    y: Array
    """The targets of that table."""
    log_NE: Array
    mean_NEM: Array

    @classmethod
    def by(cls, table: Table, outcomes: Sequence[Outcome]) -> Judged:
        """The findings of all experts."""
        log_NE = np.stack([outcome.log_density_N for outcome in outcomes], axis=1)
        return cls(table.y, log_NE, np.stack([outcome.mean_NM for outcome in outcomes], axis=1))

    def are_of(self, table: Table) -> bool:
        """Whether they are of the rows of this table and not of others."""
        return self.y is table.y


def fitted(expert: Expert, table: Table, weight_N: Array, folds: int | None) -> Outcome:
    """The expert fitted to its rows; its noise and the log density of rows, which are held out where they can be.

    With folds each row that the expert was fitted to is predicted by the fit of the other folds; without, by the other
    rows where that needs no further fit, else by the fit itself. The rest are predicted by the fit of all.
    """
    kept_N = np.flatnonzero(weight_N > NEGLIGIBLE * table.weight_N)
    rows, weight_kept_N = table.rows(kept_N), weight_N[kept_N]
    new = expert.fitted(rows, weight_kept_N)
    said = new.said(table.X)
    if folds is None:
        unseen = new.left_out(rows.y)
    else:
        unseen = _by_others(expert, rows, weight_kept_N, _folds(len(table.weight_N), folds, expert.seed)[kept_N])
    if unseen is not None:
        said[kept_N] = unseen
    new = new.settled(said[kept_N], rows.y, weight_kept_N, held_out=unseen is not None)
    return _outcome(new, said, table)


def _by_others(expert: Expert, rows: Table, weight_N: Array, fold_N: Array) -> Array:
    """What fits of the other folds say of each row."""
    present = np.unique(fold_N)
    check(len(present) > 1, "cross_fit", "needs rows of two folds", f"{len(fold_N)} rows of one")
    parts, order = [], []
    for fold in present:
        own, others = np.flatnonzero(fold_N == fold), np.flatnonzero(fold_N != fold)
        parts.append(expert.fitted(rows.rows(others), weight_N[others]).said(rows.rows(own).X))
        order.append(own)
    return np.concatenate(parts)[np.argsort(np.concatenate(order))]


def _folds(num_rows: int, folds: int, seed: int) -> Array:
    """The fold of each row: the same in all M steps, so that EM compares fits and not draws."""
    return np.random.RandomState(seed).permutation(num_rows) % folds


def refitted(expert: Expert, table: Table, weight_N: Array, folds: int | None) -> Outcome:
    """`fitted`; an expert without rows stays as it was, and so does one whose estimator refuses those it has."""
    if (weight_N > NEGLIGIBLE * table.weight_N).any():
        try:
            return fitted(expert, table, weight_N, folds)
        except ValueError as error:
            return _as_it_was(expert, table, str(error))
    return _as_it_was(expert, table, "")


def _as_it_was(expert: Expert, table: Table, refusal: str) -> Outcome:
    return _outcome(expert, expert.said(table.X), table, refusal)


def _outcome(expert: Expert, said: Array, table: Table, refusal: str = "") -> Outcome:
    return Outcome(expert, expert.log_density(said, table.y), expert.mean(said), refusal)
