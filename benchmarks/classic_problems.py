"""Tables to compare models on: generated ones with regimes and without, and those that scikit-learn brings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine, make_friedman1
from sklearn.decomposition import PCA

Array = NDArray[Any]
ROWS = 600


class Problem(NamedTuple):
    """A table, and whether it was made with regimes."""

    name: str
    regimes: bool
    classes: bool
    load: Callable[[], tuple[Array, Array]]


def piecewise() -> tuple[Array, Array]:
    """Three linear laws of five columns, by where the first column is."""
    random = np.random.default_rng(0)
    X = random.uniform(-1, 1, size=(ROWS, 5))
    coef_ED = 2 * random.normal(size=(3, 5))
    place_N = np.digitize(X[:, 0], [-1 / 3, 1 / 3])
    return X, (X * coef_ED[place_N]).sum(axis=1) + 0.2 * random.normal(size=ROWS)


def heteroscedastic() -> tuple[Array, Array]:
    """One column decides the slope and the noise: 0.1 on one side, 1 on the other."""
    random = np.random.default_rng(1)
    X = random.uniform(-1, 1, size=(ROWS, 4))
    left_N = X[:, 1] < 0
    slope_N, noise_N = np.where(left_N, 3, -1), np.where(left_N, 0.1, 1.0)
    return X, slope_N * X[:, 0] + X[:, 2] + noise_N * random.normal(size=ROWS)


def interaction() -> tuple[Array, Array]:
    """y = sign(x_2) x_1, whose regimes no cluster of the columns shows, with noise."""
    random = np.random.default_rng(2)
    X = random.uniform(-1, 1, size=(ROWS, 5))
    return X, np.sign(X[:, 1]) * X[:, 0] + 0.1 * random.normal(size=ROWS)


def flipped_classes() -> tuple[Array, Array]:
    """Two classes parted by a line that turns round where another column changes its sign."""
    random = np.random.default_rng(3)
    X = random.normal(size=(ROWS, 5))
    logit_N = 4 * np.sign(X[:, 1]) * (X[:, 0] + 0.5 * X[:, 2])
    return X, (logit_N + random.logistic(size=ROWS) > 0).astype(int)


def friedman() -> tuple[Array, Array]:
    """Friedman's first function: smooth, without regimes."""
    return make_friedman1(n_samples=ROWS, noise=1.0, random_state=0)


def digits() -> tuple[Array, Array]:
    """Digits, 20 principal components of the pixels (of all rows: they know nothing of the labels)."""
    X, y = load_digits(return_X_y=True)
    return PCA(20, random_state=0).fit_transform(X), y


PROBLEMS = (
    Problem("piecewise linear, 3 laws", True, False, piecewise),
    Problem("heteroscedastic, 2 laws", True, False, heteroscedastic),
    Problem("interaction, sign(x2) x1", True, False, interaction),
    Problem("Friedman 1", False, False, friedman),
    Problem("diabetes", False, False, lambda: load_diabetes(return_X_y=True)),
    Problem("flipped classes", True, True, flipped_classes),
    Problem("breast cancer", False, True, lambda: load_breast_cancer(return_X_y=True)),
    Problem("wine", False, True, lambda: load_wine(return_X_y=True)),
    Problem("iris", False, True, lambda: load_iris(return_X_y=True)),
    Problem("digits", False, True, digits),
)
