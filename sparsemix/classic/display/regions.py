"""Which expert owns which region of two columns."""

from __future__ import annotations

from itertools import cycle
from typing import Any, NamedTuple, Self

import numpy as np
from scipy.ndimage import distance_transform_edt
from sklearn.base import is_classifier

from sparsemix.classic.display.asked import shown, weights
from sparsemix.classic.display.grid import Grid
from sparsemix.classic.display.style import INK, along, darker, expert_colours, label, lighter
from sparsemix.classic.estimators.fitted import FittedMoE
from sparsemix.classic.parts import Array

MARKERS = "o^sDvPX"


class Regions(NamedTuple):
    """Colours of the experts, mixed as predictions are; rows in the colour of the expert that explains them best."""

    grid: Grid
    weight_GE: Array
    """How much each expert counts in the prediction of the grid's rows."""
    point_N2: Array
    """Rows of the table to show."""
    owner_N: Array
    """The expert of each: by its target where there is one, otherwise the one that counts most."""
    class_N: Array
    """The class of each, each drawn with a mark of its own; all equal for regression."""

    @classmethod
    def of(cls, estimator: FittedMoE, X: Any, y: Any, grid: Grid) -> Self:
        """Over two columns."""
        rows = shown(X, y, grid.places)
        unknown = rows.y is None
        share_NE = weights(estimator, rows.X) if unknown else estimator.responsibilities(rows.X, rows.y)
        class_N = np.zeros(len(share_NE)) if unknown or not is_classifier(estimator) else np.asarray(rows.y)
        return cls(grid, weights(estimator, grid.X), rows.place_NF, share_NE.argmax(axis=1), class_N)

    def draw(self, ax: Any) -> None:
        colour_E3 = expert_colours(self.weight_GE.shape[1])
        weight_ijE = self.grid.square(self.weight_GE)
        first, second = self.grid.values
        extent = (first[0], first[-1], second[0], second[-1])
        ground_ij3 = lighter(weight_ijE @ colour_E3, 0.6)
        ax.imshow(ground_ij3, extent=extent, origin="lower", aspect="auto", interpolation="bilinear")
        self._draw_points(ax, colour_E3)
        owner_ij = weight_ijE.argmax(axis=2)
        for expert in np.unique(owner_ij):
            inside_ij = owner_ij == expert
            if not inside_ij.all():
                lead_ij = weight_ijE[:, :, expert] - np.delete(weight_ijE, expert, axis=2).max(axis=2)
                ax.contour(first, second, lead_ij, levels=[0], colors="white", linewidths=1.2, zorder=2)
            row, column = deepest(inside_ij)
            label(ax, first[column], second[row], f"expert {expert}", darker(colour_E3[expert]))
        ax.set_ylabel(self.grid.names[1])
        along(ax, self.grid.names[0], self.grid.alone)

    def _draw_points(self, ax: Any, colour_E3: Array) -> None:
        classes = np.unique(self.class_N)
        for name, marker in zip(classes, cycle(MARKERS)):
            of_N = self.class_N == name
            colour_N3 = colour_E3[self.owner_N[of_N]]
            ax.scatter(
                *self.point_N2[of_N].T, s=16, c=colour_N3, marker=marker, edgecolors="white", linewidths=0.4, zorder=3
            )
            if len(classes) > 1:
                ax.scatter([], [], s=20, color=INK, marker=marker, label=str(name))
        if len(classes) > 1:
            ax.legend(title="class", frameon=False, loc="upper left", bbox_to_anchor=(1, 1), labelcolor=INK)


def deepest(inside_ij: Array) -> tuple[int, int]:
    """The place farthest from where the region ends."""
    depth_ij = np.asarray(distance_transform_edt(np.pad(inside_ij, 1)))[1:-1, 1:-1]
    row, column = np.unravel_index(depth_ij.argmax(), depth_ij.shape)
    return int(row), int(column)
