"""Pages made of a text with places, lines `<!-- name -->`, where tables of results go."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from green import ROOT
from report import circumstances, claims, measured, target, verdict

RESULTS = ROOT / "benchmarks" / "results"
PLACE = re.compile(r"^<!-- (\w+) -->$", re.MULTILINE)
Result = Mapping[str, Any]


def filled(text: str, section: Callable[[str], Iterable[str]]) -> str:
    """The text with the lines of `section(name)` in the place of each name."""
    return PLACE.sub(lambda place: "\n".join(section(place[1])), text)


def shown(path: Path, command: str, lines: Callable[[Result], Iterable[str]]) -> Iterator[str]:
    """Lines made of the result in a file, or the command that would measure it."""
    if path.is_file():
        yield from lines(json.loads(path.read_text(encoding="utf-8")))
    else:
        yield f"Not measured yet (`{command}`)."


def source(command: str, found: Result) -> Iterator[str]:
    """How the result came about."""
    yield f"`{command}`, {circumstances(found)}."
    yield ""


def claim_table(within: Any) -> Iterator[str]:
    """The claims in a result, or in a part of it."""
    rows = [[one["claim"], target(one), measured(one), verdict(one)] for one in claims(within)]
    yield from table(("claim", "target", "measured", "holds"), rows)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A table in Markdown."""
    yield row(head)
    yield "|---" * len(head) + "|"
    yield from map(row, rows)


def row(cells: Sequence[str]) -> str:
    """A line of it."""
    return "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|"
