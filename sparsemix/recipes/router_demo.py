"""The demo of one router: a language model with a mixture under it, against the same model without feed-forward layers.

What it shows: the router trains (the mixture is of use), and keeps its experts as evenly loaded as it states.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from sparsemix.files import write_text
from sparsemix.models import DecoderConfig
from sparsemix.recipes.arena import Contestant, DemoConfig, hold
from sparsemix.recipes.demo import TRAINING
from sparsemix.recipes.loads import LayerLoad, held_out_loads
from sparsemix.recipes.outcome import print_end
from sparsemix.recipes.routers import RouterRecipe, recipe
from sparsemix.train.config import TrainConfig


class RouterOutcome(NamedTuple):
    """What came of it."""

    router: str
    recipe: RouterRecipe
    contestants: Mapping[str, Contestant]
    """moe, and `without` feed-forward layers."""
    loads: list[LayerLoad]

    @property
    def gain(self) -> float:
        """Bits a byte by which the mixture is ahead."""
        return self.contestants["without"].last.loss - self.contestants["moe"].last.loss

    @property
    def fullest(self) -> float:
        """Load of the fullest expert over the mean, in the worst layer."""
        return max(one.fullest for one in self.loads)

    def summary(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "router": self.router,
            "source": self.recipe.source,
            **{name: one.summary() for name, one in self.contestants.items()},
            "gain": self.gain,
            "fullest_over_mean": self.fullest,
            "bound": self.recipe.bound,
            "layers": [one.summary() for one in self.loads],
        }


def router_demo(settings: DemoConfig, training: TrainConfig = TRAINING) -> RouterOutcome:
    """Train both, save them, and print how far the mixture is ahead and how its experts are loaded.

    Raises:
        ValueError: no such router, or something else in the settings is wrong.
    """
    assert settings.router is not None
    chosen = recipe(settings.router)

    def contestants(model: DecoderConfig) -> dict[str, DecoderConfig]:
        return {"moe": chosen.apply(model), "without": replace(model, moe=None, ffn=None)}

    finish = hold(settings, training, contestants)
    trainer = finish.trainers["moe"]
    loads = held_out_loads(trainer.model, finish.arena.held_out, trainer.precision)
    outcome = RouterOutcome(settings.router, chosen, finish.contestants, loads)
    write_text(settings.folder / "summary.json", json.dumps(outcome.summary(), indent=2) + "\n")
    console = Console()
    _print(console, outcome)
    print_end(console, settings.folder, finish.sample("moe", settings))
    return outcome


def _print(console: Console, outcome: RouterOutcome) -> None:
    steps = outcome.contestants["moe"].last.step
    table = Table(title=f"{outcome.router} ({outcome.recipe.source}), {steps:.0f} steps, on held-out text")
    for heading in ("block", "fullest / mean", "idle experts", "choices a token", "not computed"):
        table.add_column(heading, justify="right")
    for one in outcome.loads:
        table.add_row(
            str(one.layer), f"{one.fullest:.2f}", f"{one.idle:.0%}", f"{one.edges_per_token:.2f}", f"{one.dropped:.1%}"
        )
    console.print(table)
    for line in _verdict(outcome):
        console.print(line, highlight=False)


def _verdict(outcome: RouterOutcome) -> list[str]:
    losses = {name: one.last.loss for name, one in outcome.contestants.items()}
    ahead = "is ahead of" if outcome.gain > 0 else "is NOT ahead of"
    within = "within" if outcome.fullest <= outcome.recipe.bound else "BEYOND"
    return [
        f"The mixture {ahead} the model without feed-forward layers: {losses['moe']:.4f} against "
        f"{losses['without']:.4f} bits a byte.",
        f"Its fullest expert has {outcome.fullest:.2f} times the mean load, {within} the {outcome.recipe.bound:g} that "
        f"is stated for it.",
    ]
