"""Which expert owns which region of two columns."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.ndimage import distance_transform_edt

from sparsemix.classic.display.grid import Grid
from sparsemix.classic.display.style import darker, expert_colours, label, lighter, quiet
from sparsemix.classic.parts import Array


class Regions(NamedTuple):
    """Colours of the experts mixed by the gate; rows in the colour of the expert that explains them best."""

    grid: Grid
    gate_GE: Array
    """p(e | x) of the grid's rows."""
    point_N2: Array
    """Rows of the table to show."""
    owner_N: Array
    """The expert of each: by its target where there is one, otherwise by the gate."""

    def draw(self, ax: Any) -> None:
        colour_E3 = expert_colours(self.gate_GE.shape[1])
        gate_ijE = self.grid.square(self.gate_GE)
        first, second = self.grid.values
        extent = (first[0], first[-1], second[0], second[-1])
        ax.imshow(lighter(gate_ijE @ colour_E3, 0.6), extent=extent, origin="lower", aspect="auto", interpolation="bilinear")
        ax.scatter(*self.point_N2.T, s=14, c=colour_E3[self.owner_N], edgecolors="white", linewidths=0.4, zorder=3)
        owner_ij = gate_ijE.argmax(axis=2)
        for expert in np.unique(owner_ij):
            inside_ij = owner_ij == expert
            if inside_ij.any() and not inside_ij.all():
                ax.contour(first, second, inside_ij, levels=[0.5], colors="white", linewidths=1.2, zorder=2)
            row, column = deepest(inside_ij)
            label(ax, first[column], second[row], f"expert {expert}", darker(colour_E3[expert]))
        ax.set(xlabel=self.grid.names[0], ylabel=self.grid.names[1])
        quiet(ax)


def deepest(inside_ij: Array) -> tuple[int, int]:
    """The place farthest from where the region ends."""
    depth_ij = distance_transform_edt(np.pad(inside_ij, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(depth_ij.argmax(), depth_ij.shape)
    return int(row), int(column)
