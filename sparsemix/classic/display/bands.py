"""How the gate's probabilities go with one column."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

from sparsemix.classic.display.grid import Grid, stretches
from sparsemix.classic.display.style import along, darker, expert_colours, label, lighter
from sparsemix.classic.estimators.fitted import FittedMoE
from sparsemix.classic.parts import Array


class Bands(NamedTuple):
    """A band for each expert, as high as its probability; together they fill the height."""

    grid: Grid
    gate_GE: Array

    @classmethod
    def of(cls, estimator: FittedMoE, grid: Grid) -> Self:
        """The gate itself, whatever `pooling` makes of it."""
        return cls(grid, estimator.gate(grid.X))

    def draw(self, ax: Any) -> None:
        colour_E3 = expert_colours(self.gate_GE.shape[1])
        x_G = self.grid.values[0]
        top_GE = self.gate_GE.cumsum(axis=1)
        for expert, colour in enumerate(colour_E3):
            bottom_G = top_GE[:, expert] - self.gate_GE[:, expert]
            ax.fill_between(x_G, bottom_G, top_GE[:, expert], color=lighter(colour, 0.35), linewidth=0)
            ax.plot(x_G, top_GE[:, expert], color="white", linewidth=1.2, clip_on=True)
            middle = plateau(self.gate_GE[:, expert])
            height = self.gate_GE[middle, expert]
            if height > 0.12:
                label(ax, x_G[middle], bottom_G[middle] + height / 2, f"expert {expert}", darker(colour))
        ax.set(ylabel="p(expert | x)", xlim=(x_G[0], x_G[-1]), ylim=(0, 1))
        along(ax, self.grid.names[0], self.grid.alone)


def plateau(values_G: Array) -> int:
    """The middle of the longest run of values near the greatest."""
    high = [
        (end - start, (start + end) // 2) for start, end, near in stretches(values_G > 0.9 * values_G.max()) if near
    ]
    return max(high)[1]
