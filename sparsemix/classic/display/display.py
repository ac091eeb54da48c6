"""Pictures as scikit-learn makes them: a display that is computed from an estimator, and drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, Self

import numpy as np
from sklearn.base import is_classifier
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import _num_samples, check_is_fitted

from sparsemix.checks import check, require
from sparsemix.classic.display.bands import Bands
from sparsemix.classic.display.curves import Curves
from sparsemix.classic.display.grid import Feature, numbers, place_of, swept
from sparsemix.classic.display.regions import Regions
from sparsemix.classic.display.shares import Shares
from sparsemix.classic.parts import Array

POINTS = 600
"""Rows shown at most, evenly taken from the table."""


class Picture(Protocol):
    """Everything computed that a picture shows."""

    def draw(self, ax: Any) -> None:
        """Draw it on matplotlib axes."""
        ...


class MoEDisplay:
    """A picture of a fitted mixture; make it with `from_estimator`.

    Args:
        picture: what to draw.
    """

    ax_: Any
    """The axes drawn on."""
    figure_: Any
    """Their figure."""

    def __init__(self, picture: Picture) -> None:
        self.picture = picture

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any = None,
        *,
        response: str = "partition",
        features: Feature | Sequence[Feature] | None = None,
        grid_resolution: int = 200,
        ax: Any = None,
    ) -> Self:
        """Compute a picture and draw it.

        Args:
            estimator: a fitted mixture of experts.
            X: a table; it says over what range columns vary, and where those that do not vary stay.
            y: its targets; needed for responsibilities, shown in the others where there is a place.
            response: "partition": which expert owns what; "gate": the gate's probabilities; "responsibilities": the
                experts' shares of each row, its target known.
            features: columns that vary, by place or name: two or one for a partition (the first two), one for the gate
                (the first).
            grid_resolution: values of each.
            ax: matplotlib axes to draw on; new ones by default.
        """
        check_is_fitted(estimator)
        names = ("partition", "gate", "responsibilities")
        check(response in names, "response", f"must be one of {', '.join(names)}", repr(response))
        if response == "responsibilities":
            check(y is not None, "y", "must be given for responsibilities", None)
            return cls(Shares(estimator.responsibilities(X, y))).plot(ax)
        X = X if hasattr(X, "shape") else np.asarray(X)
        default = min(X.shape[1], 2 if response == "partition" else 1)
        given = range(default) if features is None else features
        chosen = (given,) if isinstance(given, str) or not isinstance(given, Sequence) else tuple(given)
        most = 2 if response == "partition" else 1
        check(1 <= len(chosen) <= most, "features", f"must be 1..{most} columns for the {response}", chosen)
        if response == "gate":
            grid = swept(X, chosen, grid_resolution)
            return cls(Bands(grid, estimator.gate(grid.X))).plot(ax)
        compute = regions if len(chosen) == 2 else curves
        return cls(compute(estimator, X, y, chosen, grid_resolution)).plot(ax)

    def plot(self, ax: Any = None) -> Self:
        """Draw on `ax`, or on new axes."""
        pyplot = require("matplotlib.pyplot", "for pictures")
        self.ax_ = pyplot.subplots(layout="constrained")[1] if ax is None else ax
        self.figure_ = self.ax_.figure
        self.picture.draw(self.ax_)
        return self


def shown(X: Any, y: Any) -> tuple[Any, Any]:
    """`POINTS` rows at most."""
    rows = np.linspace(0, _num_samples(X) - 1, min(_num_samples(X), POINTS)).astype(int)
    return _safe_indexing(X, rows), None if y is None else _safe_indexing(y, rows)


def regions(estimator: Any, X: Any, y: Any, features: tuple[Feature, ...], resolution: int) -> Regions:
    """The partition over two columns."""
    grid = swept(X, features, resolution)
    some, target = shown(X, y)
    share_NE = estimator.gate(some) if target is None else estimator.responsibilities(some, target)
    point_N2 = np.column_stack([numbers(some, place_of(some, feature)) for feature in features])
    class_N = np.asarray(target) if target is not None and is_classifier(estimator) else np.zeros(len(point_N2))
    return Regions(grid, estimator.gate(grid.X), point_N2, share_NE.argmax(axis=1), class_N)


def curves(estimator: Any, X: Any, y: Any, features: tuple[Feature, ...], resolution: int) -> Curves:
    """The partition over one column: of the first output, or of the probability of the last class."""
    grid = swept(X, features, resolution)
    out_GEM = estimator.mixture_.experts.output(estimator._read(grid.X))
    classes = is_classifier(estimator)
    out_GE = out_GEM[:, :, -1 if classes else 0]
    some, target = shown(X, y)
    y_N = first_output(estimator, target) if target is not None else np.empty(0)
    point_N2 = np.column_stack([numbers(some, place_of(some, features[0]))[: len(y_N)], y_N])
    name = f"p(y = {estimator.classes_[-1]} | x)" if classes else str(getattr(y, "name", None) or "y")
    return Curves(grid, estimator.gate(grid.X), out_GE, name, point_N2)


def first_output(estimator: Any, target: Any) -> Array:
    """Targets on the axis of the curves."""
    if is_classifier(estimator):
        return (np.asarray(target) == estimator.classes_[-1]).astype(float)
    return np.asarray(target, dtype=np.float64).reshape(len(target), -1)[:, 0]


def plot_partition(
    estimator: Any,
    X: Any,
    y: Any = None,
    *,
    features: Feature | Sequence[Feature] | None = None,
    grid_resolution: int = 200,
    ax: Any = None,
) -> Any:
    """Which expert owns which region of two columns, or which stretch of one and what it says there; the axes."""
    return MoEDisplay.from_estimator(estimator, X, y, features=features, grid_resolution=grid_resolution, ax=ax).ax_


def plot_gate(
    estimator: Any, X: Any, *, features: Feature | None = None, grid_resolution: int = 200, ax: Any = None
) -> Any:
    """The gate's probabilities over one column, as bands that fill the height; the axes."""
    made = MoEDisplay.from_estimator(
        estimator, X, response="gate", features=features, grid_resolution=grid_resolution, ax=ax
    )
    return made.ax_


def plot_responsibilities(estimator: Any, X: Any, y: Any, *, ax: Any = None) -> Any:
    """The experts' shares of each row, its target known; rows sorted by owner; the axes."""
    return MoEDisplay.from_estimator(estimator, X, y, response="responsibilities", ax=ax).ax_
