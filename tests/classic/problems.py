"""Tables that the tests of EM and its starts share."""

from __future__ import annotations

import numpy as np

from sparsemix.classic.parts import Table


def sign_times(seed: int, rows: int = 1000):
    """y = sign(x_2) x_1, where x_2 has the least variance: no cluster of x tells its two laws apart."""
    random = np.random.RandomState(seed)
    X = random.uniform([-1.0, -0.2, -1.0], [1.0, 0.2, 1.0], size=(rows, 3))
    return X, np.sign(X[:, 1]) * X[:, 0]


def two_blobs(seed: int, rows: int = 400):
    """Two clusters of x far from each other with one linear law."""
    random = np.random.RandomState(seed)
    X = random.randn(rows, 2) + np.where(np.arange(rows) % 2, 10.0, -10.0)[:, None]
    return X, X @ [1.0, -2.0] + 3 + random.randn(rows)


def two_laws(seed: int, rows: int = 1000):
    """y = x or y = -x, whatever x is."""
    random = np.random.RandomState(seed)
    x = random.uniform(-1, 1, size=(rows, 1))
    return x, random.choice([-1.0, 1.0], size=rows) * x[:, 0] + 0.05 * random.randn(rows)


def pieces(seed: int, n_experts: int, rows: int = 400):
    """Linear laws on intervals of the first column; two further columns are noise."""
    random = np.random.RandomState(seed)
    X = random.uniform(-1, 1, size=(rows, 3))
    borders = np.sort(random.uniform(-0.8, 0.8, size=n_experts - 1))
    slope_E, level_E = random.randn(n_experts), random.randn(n_experts)
    piece_N = np.searchsorted(borders, X[:, 0])
    return X, level_E[piece_N] + slope_E[piece_N] * X[:, 0] + 0.1 * random.randn(rows)


def regression(X, y, weight_N=None) -> Table:
    return Table(X, y.reshape(len(y), -1), np.ones(len(y)) if weight_N is None else weight_N)


def classes(seed: int, rows: int, n_classes: int = 2) -> Table:
    """Classes that a product of two columns decides, some of them changed."""
    random = np.random.RandomState(seed)
    X = random.randn(rows, 3)
    code_N = (X[:, 0] * X[:, 1] > 0) + (n_classes > 2) * (X[:, 2] > 0.5)
    code_N = np.where(random.rand(rows) < 0.05, random.randint(n_classes, size=rows), code_N)
    return Table(X, code_N.astype(int), np.ones(rows), n_classes)
