"""What came of a race between an MoE and its dense twin: as JSON, as a table, as a plot."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from sparsemix.checks import require
from sparsemix.files import write_text
from sparsemix.recipes.arena import Contestant
from sparsemix.recipes.curves import loss_at_equal_seconds, speed_up

COLORS = {"moe": "#d1495b", "dense": "#2e4057"}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Both models, and how they compare."""

    moe: Contestant
    dense: Contestant
    stable_steps: int
    """Steps before the decay of the learning rate."""
    seed: int

    @property
    def contestants(self) -> dict[str, Contestant]:
        """Both, by name."""
        return {"moe": self.moe, "dense": self.dense}

    def summary(self) -> dict[str, Any]:
        """As JSON: the two models, and speed-ups as in `recipes.curves.speed_up`."""
        gain = speed_up(self.dense.curve, self.moe.curve, self.stable_steps)
        curves = {name: one.curve for name, one in self.contestants.items()}
        return {
            **{name: one.summary() for name, one in self.contestants.items()},
            "steps": self.moe.last.step,
            "stable_steps": self.stable_steps,
            "seed": self.seed,
            "level": gain.level,
            "speedup_steps": gain.steps,
            "speedup_flops": gain.flops,
            "speedup_seconds": gain.seconds,
            "loss_at_equal_seconds": loss_at_equal_seconds(curves, self.stable_steps),
        }


def write_outcome(outcome: Outcome, folder: Path) -> None:
    """summary.json, and curves.png where matplotlib is installed."""
    write_text(folder / "summary.json", json.dumps(outcome.summary(), indent=2) + "\n")
    try:
        require("matplotlib", "to draw the curves")
    except ImportError as error:
        Console(stderr=True).print(f"no plot: {error}", style="yellow", markup=False)
    else:
        plot(outcome, folder / "curves.png")


def plot(outcome: Outcome, path: Path) -> None:
    """Held-out loss against steps, seconds and FLOPs, side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    level = outcome.summary()["level"]
    for axis, (quantity, unit) in zip(axes, (("step", "steps"), ("seconds", "seconds"), ("flops", "FLOPs"))):
        for name, one in outcome.contestants.items():
            label = (
                f"{name}: {one.counts.parameters_active / 1e6:.2f} of {one.counts.parameters_total / 1e6:.2f} M active"
            )
            places = [getattr(point, quantity) for point in one.curve]
            axis.plot(places, [point.loss for point in one.curve], label=label, color=COLORS[name], linewidth=2)
        axis.axhline(level, color="#999999", linewidth=1, linestyle=":")
        axis.set_xlabel(unit)
        axis.spines[["top", "right"]].set_visible(False)
    start = max(1, len(outcome.moe.curve) // 10)
    low = min(one.last.loss for one in outcome.contestants.values())
    axes[0].set_ylim(low - 0.05, outcome.dense.curve[start].loss)
    axes[0].set_ylabel("held-out loss, bits a byte")
    axes[0].legend(frameon=False)
    figure.savefig(path, dpi=110)


def print_outcome(outcome: Outcome, folder: Path, sample: str) -> None:
    """The table, who won by how much, and what the MoE writes."""
    console, summary = Console(), outcome.summary()
    console.print(_table(outcome))
    for line in _verdict(summary):
        console.print(line, highlight=False)
    print_end(console, folder, sample)


def print_end(console: Console, folder: Path, sample: str) -> None:
    """What the MoE writes, and where everything is."""
    console.print(Panel(Text(sample), title="the MoE writes", border_style=COLORS["moe"]))
    names = ", ".join(path.name for path in sorted(folder.iterdir()))
    console.print(f"in {folder}: {names}", highlight=False, style="dim")


def _table(outcome: Outcome) -> Table:
    table = Table(title=f"{outcome.moe.last.step:.0f} steps on the same tokens, in turns")
    table.add_column("")
    for name in outcome.contestants:
        table.add_column(name, justify="right")
    rows = {
        "held-out loss, bits a byte": lambda one: f"{one.last.loss:.4f}",
        "parameters": lambda one: f"{one.counts.parameters_total:,}",
        "active a token": lambda one: f"{one.counts.parameters_active:,}",
        "forward FLOPs a token": lambda one: f"{one.counts.flops_per_token:,}",
        "training, seconds": lambda one: f"{one.last.seconds:.1f}",
        "tokens a second": lambda one: f"{one.tokens / one.last.seconds:,.0f}",
    }
    for title, cell in rows.items():
        table.add_row(title, *(cell(one) for one in outcome.contestants.values()))
    for domain in outcome.moe.domains:
        cells = (f"{one.domains[domain]:.4f}" for one in outcome.contestants.values())
        table.add_row(f"  {domain}", *cells, style="dim")
    return table


def _verdict(summary: dict[str, Any]) -> list[str]:
    level, losses = summary["level"], {name: summary[name]["final_loss"] for name in ("moe", "dense")}
    ahead = min(losses, key=losses.__getitem__)
    lines = [f"After equal steps: {ahead} is ahead, {losses['moe']:.4f} (moe) against {losses['dense']:.4f} (dense)."]
    if summary["speedup_steps"] is None:
        lines.append(f"The MoE did not reach the dense twin's stable-phase loss of {level:.4f}: the dense twin wins.")
    else:
        gains = {unit: summary[f"speedup_{unit}"] for unit in ("steps", "flops", "seconds")}
        text = ", ".join(f"{gain:.2f} times in {unit}" for unit, gain in gains.items())
        lines.append(
            f"To reach {level:.4f}, at a constant learning rate, the MoE was faster by: {text} (below 1: slower)."
        )
    equal = summary["loss_at_equal_seconds"]
    if equal is None:
        return [*lines, "After equal seconds: unknown, since the slower model was evaluated too late."]
    ahead = min(equal, key=equal.__getitem__)
    lines.append(
        f"After equal seconds: {ahead} is ahead, {equal['moe']:.4f} (moe) against {equal['dense']:.4f} (dense)."
    )
    return lines
