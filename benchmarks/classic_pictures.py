"""The pictures of docs/classic.md."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from green import ROOT
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF
from sklearn.linear_model import LinearRegression

from sparsemix.classic import MoERegressor, plot_gate, plot_partition


def draw_all(folder: Path) -> None:
    """Write each as classic_NAME.png."""
    matplotlib.use("agg")
    folder.mkdir(exist_ok=True)
    for name, draw in {"partition": partition, "step": step, "gate": gate}.items():
        draw().figure.savefig(folder / f"classic_{name}.png", dpi=80)


def partition() -> Any:
    """The first example of the page."""
    random = np.random.default_rng(0)
    X = random.uniform(-1, 1, size=(500, 3))
    y = np.sign(X[:, 1]) * X[:, 0] + 0.1 * random.normal(size=500)
    return plot_partition(MoERegressor(n_experts=2).fit(X, y), X, y, features=(0, 1))


def step() -> Any:
    """A wave and a line in one column, by a Gaussian process and a linear regression."""
    random = np.random.default_rng(0)
    x = np.sort(random.uniform(0, 1, 60))[:, None]
    y = np.where(x[:, 0] < 0.5, np.sin(25 * x[:, 0]), 2 + x[:, 0]) + 0.01 * random.normal(size=60)
    process = GaussianProcessRegressor(RBF(0.1, (0.01, 1)), alpha=1e-3, normalize_y=True)
    mixture = MoERegressor([process, LinearRegression()], max_iter=20, random_state=0).fit(x, y)
    return plot_partition(mixture, x, y, features=0)


def gate() -> Any:
    """The gate of the example with house prices."""
    sys.path.insert(0, str(ROOT / "examples"))
    from tabular import houses

    X, y = houses(2000)
    return plot_gate(MoERegressor(n_experts=3).fit(X, y), X, features="km_to_centre")
