"""How a table is cut into folds: as scikit-learn cuts, or the user's splitter does."""

from __future__ import annotations

from typing import Any

from sklearn.model_selection import check_cv

from sparsemix.classic.parts import Array, Table


def folds_of(cv: Any, table: Table) -> list[tuple[Array, Array]]:
    """The rows to fit and the rows held out, of each fold; a number of folds keeps shares of classes alike."""
    labels = table.y[:, 0] if table.y.ndim == 2 and table.y.shape[1] == 1 else table.y
    splitter: Any = check_cv(cv, labels, classifier=table.num_classes is not None)
    return list(splitter.split(table.X, labels))
