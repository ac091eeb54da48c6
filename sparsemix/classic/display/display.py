"""Pictures as scikit-learn makes them: a display that is computed from an estimator, and drawn."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, Self

import numpy as np

from sparsemix.checks import check, require
from sparsemix.classic.display.asked import check_mixture
from sparsemix.classic.display.bands import Bands
from sparsemix.classic.display.curves import Curves
from sparsemix.classic.display.grid import Feature, chosen, swept
from sparsemix.classic.display.regions import Regions
from sparsemix.classic.display.shares import Shares


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
        features: Feature | Iterable[Feature] | None = None,
        grid_resolution: int = 200,
        ax: Any = None,
    ) -> Self:
        """Compute a picture and draw it.

        Args:
            estimator: a fitted mixture of experts.
            X: a table; it says over what range columns vary, and where those that do not vary stay.
            y: its targets; needed for responsibilities, shown in the others where there is a place.
            response: "partition": which expert owns what, by the weights that `pooling` gives them in predictions;
                "gate": the gate's probabilities; "responsibilities": the experts' shares of each row, its target known.
            features: columns that vary, by place or name: two or one for a partition, one for the gate; by default the
                first two, or the first, that hold numbers.
            grid_resolution: values of each.
            ax: matplotlib axes to draw on; new ones by default.

        Raises:
            ValueError: it is no mixture, or columns do not vary in numbers.
            NotFittedError: it was not fitted.
        """
        check_mixture(estimator)
        names = ("partition", "gate", "responsibilities")
        check(response in names, "response", f"must be one of {', '.join(names)}", repr(response))
        if response == "responsibilities":
            check(y is not None, "y", "must be given for responsibilities", None)
            return cls(Shares(estimator.responsibilities(X, y))).plot(ax)
        X = X if hasattr(X, "shape") else np.asarray(X)
        grid = swept(X, chosen(X, features, 2 if response == "partition" else 1), grid_resolution)
        if response == "gate":
            return cls(Bands.of(estimator, grid)).plot(ax)
        partition = Regions if len(grid.places) == 2 else Curves
        return cls(partition.of(estimator, X, y, grid)).plot(ax)

    def plot(self, ax: Any = None) -> Self:
        """Draw on `ax`, or on new axes."""
        pyplot = require("matplotlib.pyplot", "for pictures")
        self.ax_ = pyplot.subplots(layout="constrained")[1] if ax is None else ax
        self.figure_ = self.ax_.figure
        self.picture.draw(self.ax_)
        return self


def plot_partition(
    estimator: Any,
    X: Any,
    y: Any = None,
    *,
    features: Feature | Iterable[Feature] | None = None,
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
