"""Every router that suits a causal language model: how far ahead of no feed-forward layers it is, and how it is loaded.

Not a measurement of time: the results are losses and loads. For docs/routers.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from green import ROOT
from harness import save

from sparsemix.recipes.arena import DemoConfig
from sparsemix.recipes.router_demo import RouterOutcome, router_demo
from sparsemix.recipes.routers import RECIPES


def main(argv: Sequence[str] | None = None) -> None:
    """Train each, and write down what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300, help="optimiser steps of each model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--routers", nargs="+", choices=RECIPES, default=list(RECIPES), help="which; all if not given")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the result")
    settings = parser.parse_args(argv)
    with TemporaryDirectory() as folder:  # one for all: the text is prepared once
        rows = []
        for name in settings.routers:
            rows.append(_row(_demo(name, settings.steps, settings.seed, folder)))
            save("router_demos", {"steps": settings.steps, "seed": settings.seed, "routers": rows}, settings.out)


def _demo(name: str, steps: int, seed: int, folder: str) -> RouterOutcome:
    settings = DemoConfig(
        router=name, steps=steps, seed=seed, evaluate_every=steps, out=f"{folder}/demo", sample_tokens=0
    )
    return router_demo(settings)


def _row(outcome: RouterOutcome) -> dict[str, Any]:
    layers = outcome.loads
    return {
        "router": outcome.router,
        "source": outcome.recipe.source,
        "loss": outcome.contestants["moe"].last.loss,
        "gain": outcome.gain,
        "edges_per_token": sum(one.edges_per_token for one in layers) / len(layers),
        "idle": max(one.idle for one in layers),
        "fullest": outcome.fullest,
        "bound": outcome.recipe.bound,
    }


if __name__ == "__main__":
    main()
