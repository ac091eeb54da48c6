"""`sparsemix demo`: the demo recipe, with its settings as flags."""

from __future__ import annotations

from sparsemix.cli.flags import parse
from sparsemix.recipes.demo import DemoConfig, demo


def run(args: list[str]) -> int:
    """Parse, race, report."""
    demo(parse(DemoConfig, args, verb="demo", default=DemoConfig()))
    return 0
