"""Which expert owns which stretch of one column, and what each says there."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import numpy as np
from sklearn.base import is_classifier

from sparsemix.checks import require
from sparsemix.classic.display.asked import outputs, shown, weights
from sparsemix.classic.display.grid import Grid, stretches
from sparsemix.classic.display.style import FAINT, INK, along, darker, expert_colours, label, lighter
from sparsemix.classic.parts import Array

CLEAR = 0.6
"""The weight from which a stretch has an owner."""


class Curves(NamedTuple):
    """A curve for each expert, strong where it counts, on their colours mixed alike; the prediction in black."""

    grid: Grid
    weight_GE: Array
    """How much each expert counts in the prediction of the grid's rows."""
    out_GE: Array
    """What each expert says."""
    y_label: str
    point_N2: Array
    """Rows of the table to show, column and target; there may be none."""

    @classmethod
    def of(cls, estimator: Any, X: Any, y: Any, grid: Grid) -> Self:
        """Over one column: of the first output, or of the probability of the last class."""
        classes = is_classifier(estimator)
        out_GE = outputs(estimator, grid.X)[:, :, -1 if classes else 0]
        rows = shown(X, y, grid.places)
        point_N2 = np.empty((0, 2)) if y is None else np.column_stack([rows.place_NF, on_axis(estimator, rows.y)])
        name = f"p(y = {estimator.classes_[-1]} | x)" if classes else str(getattr(y, "name", None) or "y")
        return cls(grid, weights(estimator, grid.X), out_GE, name, point_N2)

    def draw(self, ax: Any) -> None:
        colour_E3 = expert_colours(self.weight_GE.shape[1])
        x_G = self.grid.values[0]
        ax.scatter(*self.point_N2.T, s=9, color=FAINT, alpha=0.45, linewidths=0, zorder=2)
        for expert, colour in enumerate(colour_E3):
            ax.add_collection(fading(x_G, self.out_GE[:, expert], self.weight_GE[:, expert], colour), autolim=True)
        mean_G = (self.weight_GE * self.out_GE).sum(axis=1)
        ax.plot(x_G, mean_G, color=INK, linewidth=1.2, linestyle=(0, (4, 2)), zorder=5)
        ax.set(ylabel=self.y_label, xlim=(x_G[0], x_G[-1]))
        said = np.concatenate([self.point_N2[:, 1], self.out_GE[self.weight_GE > 0.1]])
        ax.set_ylim(said.min() - 0.05 * np.ptp(said), said.max() + 0.15 * np.ptp(said))
        ground_1G3 = lighter(self.weight_GE @ colour_E3, 0.8)[None]
        ax.imshow(ground_1G3, extent=(x_G[0], x_G[-1], *ax.get_ylim()), aspect="auto", zorder=0)
        self._name(ax, colour_E3)
        along(ax, self.grid.names[0], self.grid.alone)

    def _name(self, ax: Any, colour_E3: Array) -> None:
        """Names at the top of stretches with a clear owner; of other experts that count, at their curves."""
        x_G = self.grid.values[0]
        clear_G = np.where(self.weight_GE.max(axis=1) > CLEAR, self.weight_GE.argmax(axis=1), -1)
        wide = [(start, end, expert) for start, end, expert in stretches(clear_G) if end - start > 0.08 * len(x_G)]
        for start, end, expert in wide:
            if expert >= 0:
                place = {"transform": ax.get_xaxis_transform(), "va": "top"}
                label(ax, x_G[(start + end) // 2], 0.97, f"expert {expert}", darker(colour_E3[expert]), **place)
        named = {expert for _, _, expert in wide}
        for expert in sorted(set(np.flatnonzero(self.weight_GE.max(axis=0) > 0.1)) - named):
            best = self.weight_GE[:, expert].argmax() if self.weight_GE[-1, expert] < 0.1 else -1
            place = {"ha": "right", "va": "bottom"} if best == -1 else {}
            label(ax, x_G[best], self.out_GE[best, expert], f"expert {expert}", darker(colour_E3[expert]), **place)


def on_axis(estimator: Any, target: Any) -> Array:
    """Targets where the curves are."""
    if is_classifier(estimator):
        return (np.asarray(target) == estimator.classes_[-1]).astype(float)
    return np.asarray(target, dtype=np.float64).reshape(len(target), -1)[:, 0]


def fading(x_G: Array, y_G: Array, strength_G: Array, colour: Array) -> Any:
    """A line that is as strong as the expert counts."""
    lines = require("matplotlib.collections", "for pictures")
    points = np.column_stack([x_G, y_G])
    middle = (strength_G[1:] + strength_G[:-1]) / 2
    opacity = 0.15 + 0.85 * middle
    rgba = np.column_stack([np.tile(colour, (len(middle), 1)), opacity])
    segments = np.stack([points[:-1], points[1:]], axis=1)
    return lines.LineCollection(list(segments), colors=rgba, linewidths=1 + 1.8 * middle, capstyle="butt", zorder=4)
