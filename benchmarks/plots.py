"""The plots of docs/performance.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sparsemix.checks import require

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("tab:blue", "tab:gray", "tab:orange", "tab:red", "tab:purple")


def growth_plot(result: Mapping[str, Any]) -> Figure:
    """Time against the number of experts, with the bounds of arithmetic and of memory."""
    measured = result["measured"]
    experts = [one["shape"]["experts"] for one in measured]
    curves = {
        "layer": ("o-", [one["seconds"]["layer"]["median"] for one in measured]),
        "experts alone": ("s-", [one["seconds"]["experts alone"]["median"] for one in measured]),
        "bound: FLOPs, router included": ("k--", [one["bound_arithmetic"]["median"] for one in measured]),
        "bound: bytes": ("k:", [one["bound_memory"]["median"] for one in measured]),
    }
    figure = require("matplotlib.figure", "to plot").Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, (style, seconds) in curves.items():
        axes.plot(experts, [1000 * one for one in seconds], style, label=name)
    axes.set_xscale("log", base=2)
    axes.set_xticks(experts, [str(one) for one in experts])
    axes.set_ylim(bottom=0)
    axes.set(
        xlabel="experts", ylabel="milliseconds, forward and backward", title=of_shape(measured[0]["shape"], "TdFk")
    )
    axes.legend()
    axes.grid(alpha=0.3)
    return figure


def share_plot(result: Mapping[str, Any]) -> Figure:
    """The share of the peak that each layer reaches, shape by shape."""
    parts = result["parts"]
    figure = require("matplotlib.figure", "to plot").Figure(figsize=(9, 4.6), layout="constrained")
    axes = figure.subplots()
    names = list(dict.fromkeys(name for part in parts for name in part["share_of_peak"]))
    width = 0.8 / len(names)
    for index, name in enumerate(names):
        found = [(x, part["share_of_peak"][name]) for x, part in enumerate(parts) if name in part["share_of_peak"]]
        places = [x + (index - (len(names) - 1) / 2) * width for x, _ in found]
        axes.bar(
            places, [share["median"] for _, share in found], width, label=name, color=COLOURS[index % len(COLOURS)]
        )
    axes.axhline(1, color="black", linewidth=0.8)
    labels = [f"{part['what']}\n{of_shape(part['shape'], 'FEk')}" for part in parts]
    axes.set_xticks(range(len(parts)), labels)
    axes.set(ylabel="share of the peak", title=of_shape(parts[0]["shape"], "Td"))
    axes.legend(fontsize="small", ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.15))
    return figure


def of_shape(shape: Mapping[str, int], letters: str) -> str:
    """Some of the sizes, as in T=4096 d=512."""
    names = {"T": "tokens", "d": "dim", "F": "hidden", "E": "experts", "k": "k"}
    return " ".join(f"{letter}={shape[names[letter]]}" for letter in letters)
