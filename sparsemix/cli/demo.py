"""`sparsemix demo`: the demo recipes, with their settings as flags."""

from __future__ import annotations

from sparsemix.cli.flags import parse
from sparsemix.recipes.arena import DemoConfig
from sparsemix.recipes.demo import demo
from sparsemix.recipes.router_demo import router_demo


def run(args: list[str]) -> int:
    """Parse, race, report."""
    settings = parse(DemoConfig, args, verb="demo", default=DemoConfig())
    (demo if settings.router is None else router_demo)(settings)
    return 0
