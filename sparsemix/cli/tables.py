"""Facts printed for people: a line for each, a heading for each group of them."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from sparsemix.cli.describe import Facts

UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def print_facts(facts: Facts) -> None:
    """Print names and values; those of a group are indented."""
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(overflow="fold")
    for name, value in facts.items():
        if isinstance(value, dict):
            table.add_row(_words(name), "", style="bold")
            for inner, one in value.items():
                table.add_row(f"  {_words(inner)}", _bytes(one) if name.endswith("_bytes") else _text(one))
        else:
            table.add_row(_words(name), _text(value))
    Console().print(table, highlight=False)


def _words(name: str) -> str:
    return name.removesuffix("_bytes").replace("_", " ")


def _text(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _bytes(count: int) -> str:
    """Decimal units, three digits: '93.4 GB'."""
    power = min(len(UNITS) - 1, (len(str(count)) - 1) // 3)
    return f"{count / 1000**power:.3g} {UNITS[power]}"
