"""Small tables with two regimes, for tests of the estimators."""

from __future__ import annotations

import numpy as np

from sparsemix.classic.numeric.columns import Columns


def regimes(rows: int = 300, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """X (N, 3), y (N,): of slope 2 in column 1 where column 0 is positive, -3 elsewhere, with noise 0.1."""
    random = np.random.default_rng(seed)
    X = random.normal(size=(rows, 3))
    y = np.where(X[:, 0] > 0, 2 * X[:, 1], 1 - 3 * X[:, 1])
    return X, y + 0.1 * random.normal(size=rows)


def classes(rows: int = 300, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """X (N, 3), y (N,): "no" or "yes" by the sign of column 1, the other way round where column 0 is negative."""
    X = np.random.default_rng(seed).normal(size=(rows, 3))
    return X, np.where(X[:, 0] * X[:, 1] > 0, "yes", "no")


def whole(columns: Columns) -> np.ndarray:
    """All of z, (N, D)."""
    return np.vstack([z_BD for _, z_BD in columns.blocks()])
