"""Colours and type that all pictures share."""

from __future__ import annotations

from typing import Any

import numpy as np

from sparsemix.checks import require
from sparsemix.classic.parts import Array

OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
"""Told apart with every kind of colour vision. Source: Okabe & Ito, "Color universal design" (2008)."""
INK = "#333333"
FAINT = "#8A8A8A"


def expert_colours(n_experts: int) -> Array:
    """(E, 3), red, green and blue in 0..1; beyond seven experts, along a colour map."""
    colours = require("matplotlib.colors", "for pictures")
    if n_experts <= len(OKABE_ITO):
        return np.array([colours.to_rgb(name) for name in OKABE_ITO[:n_experts]])
    maps = require("matplotlib", "for pictures").colormaps
    return maps["turbo"](np.linspace(0.05, 0.95, n_experts))[:, :3]


def darker(colour: Array) -> Array:
    """The colour for text on white."""
    return 0.65 * np.asarray(colour)


def lighter(colour: Array, share: float) -> Array:
    """The colour with that share of white."""
    return share + (1 - share) * np.asarray(colour)


def quiet(ax: Any) -> None:
    """Axes without what the data do not need."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(FAINT)
    ax.tick_params(color=FAINT, labelcolor=INK)
    ax.xaxis.label.set_color(INK)
    ax.yaxis.label.set_color(INK)


def along(ax: Any, name: str, alone: bool) -> None:
    """Axes over a column: its name, and where the other columns stay, if there are any."""
    ax.set_xlabel(name)
    if not alone:
        ax.set_title("other columns at their medians", loc="right", fontsize="small", color=FAINT)
    quiet(ax)


def label(ax: Any, x: float, y: float, text: str, colour: Any, **kwargs: Any) -> None:
    """Text that can be read on any ground."""
    effects = require("matplotlib.patheffects", "for pictures")
    halo = [effects.withStroke(linewidth=3, foreground="white")]
    centre = {"ha": "center", "va": "center"} | kwargs
    ax.text(x, y, text, color=colour, weight="bold", path_effects=halo, zorder=6, **centre)
