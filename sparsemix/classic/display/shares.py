"""How sharply rows belong to experts, once their targets are known."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from sparsemix.classic.display.style import darker, expert_colours, lighter, quiet
from sparsemix.classic.parts import Array

COLUMNS = 400
"""More rows than these are averaged, neighbours in the picture together."""


class Shares(NamedTuple):
    """A column for each row, divided by its responsibilities; sorted by owner, the surest first."""

    responsibility_NE: Array

    def draw(self, ax: Any) -> None:
        rows, n_experts = self.responsibility_NE.shape
        colour_E3 = expert_colours(n_experts)
        edge = np.linspace(0, rows, min(rows, COLUMNS) + 1).astype(int)
        share_NE = np.add.reduceat(own_first(self.responsibility_NE), edge[:-1]) / np.diff(edge)[:, None]
        bottom_N = np.zeros(len(share_NE))
        for expert, colour in enumerate(colour_E3):
            top_N = bottom_N + share_NE[:, expert]
            ax.stairs(top_N, edge, baseline=bottom_N, fill=True, color=lighter(colour, 0.2), linewidth=0)
            bottom_N = top_N
        start = 0
        place = ax.get_xaxis_transform()
        for expert, count in enumerate(np.bincount(self.responsibility_NE.argmax(axis=1), minlength=n_experts)):
            if count:
                ax.axvline(start + count, color="white", linewidth=1.5)
            if count >= 0.05 * rows:
                text, ink = f"{expert}\n{count / rows:.0%}", darker(colour_E3[expert])
                ax.text(start + count / 2, -0.02, text, color=ink, transform=place, ha="center", va="top")
            start += count
        ax.set(xlim=(0, rows), ylim=(0, 1), xticks=[], ylabel="p(expert | x, y)")
        ax.set_xlabel("expert, and its share of the rows", labelpad=30)
        quiet(ax)
        ax.spines["bottom"].set_visible(False)


def own_first(responsibility_NE: Array) -> Array:
    """Rows sorted by the expert that is most responsible, and by how much it is."""
    return responsibility_NE[np.lexsort((-responsibility_NE.max(axis=1), responsibility_NE.argmax(axis=1)))]
