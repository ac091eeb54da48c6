"""`sparsemix verify`: prove that a layer, a run or a model computes what it should."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from sparsemix.checks import check
from sparsemix.cli.flags import Switch, parse, shown_as
from sparsemix.cli.proofs import Asked, proofs
from sparsemix.verify import Finding

FAILED = 3
VERDICTS = {True: "[green]passed[/green]", False: "[bold red]FAILED[/bold red]", None: "[dim]n/a[/dim]"}


@dataclass(frozen=True)
class Verify:
    """Prove what a layer, a run or a model computes: a row for each check. Exit code 3 if one fails."""

    path: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PATH")]
    """A run, a folder of runs, a model in our own format or in Hugging Face's, or a JSON file with the config of a
    layer, of a model or of a run."""
    tokens: Annotated[int, shown_as("INT")] = 64
    """How many to compute with."""
    layers: Annotated[tuple[int, ...], shown_as("INT...")] = ()
    """Blocks to take apart, one after the other, where the whole model has no room in memory; without, all."""
    triton: Switch = False
    """Triton's kernels on a CPU too, where TRITON_INTERPRET=1 turns on their interpreter: slow."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""
    json: Switch = False
    """Print JSON."""


def run(args: list[str]) -> int:
    """Parse, prove, print."""
    given = parse(Verify, args, verb="verify", default=Verify(path=tyro.MISSING))
    check(given.tokens >= 8, "tokens", "must be at least 8", given.tokens, "raise it")
    asked = Asked(given.tokens, given.layers, given.triton, given.device)
    found = {name: list(findings) for name, findings in proofs(given.path, asked)}
    print(_as_json(found)) if given.json else _print(found)
    return FAILED if any(one.passed is False for rows in found.values() for one in rows) else 0


def _print(found: dict[str, list[Finding]]) -> None:
    console = Console()
    for name, findings in found.items():
        console.print(_as_table(name, findings))
    console.print(_summary([one for findings in found.values() for one in findings]), highlight=False)


def _as_table(name: str, findings: Sequence[Finding]) -> Table:
    table = Table(title=name)
    for column in ("check", "of", ""):
        table.add_column(column, no_wrap=True)
    for column in ("error", "allowed"):
        table.add_column(column, justify="right")
    table.add_column("compared with", overflow="fold")
    where = None
    for one in findings:
        if where not in (None, one.where):
            table.add_section()
        where = one.where
        errors = ("" if number is None else f"{number:.1e}" for number in (one.error, one.tolerance))
        detail = f"{one.detail}: {one.worst}" if one.passed is False and one.worst else one.detail
        table.add_row(one.check, one.where, VERDICTS[one.passed], *errors, detail)
    return table


def _summary(findings: Sequence[Finding]) -> str:
    failed = [f"{one.check} of {one.where}" for one in findings if one.passed is False]
    passed, other = (sum(one.passed is verdict for one in findings) for verdict in (True, None))
    text = f"{passed} passed, {len(failed)} failed, {other} not applicable"
    return f"{text}: {', '.join(failed)}" if failed else text


def _as_json(found: dict[str, list[Finding]]) -> str:
    findings = [{"of": name} | one._asdict() for name, rows in found.items() for one in rows]
    counts = {
        name: sum(one["passed"] is verdict for one in findings)
        for name, verdict in (("passed", True), ("failed", False), ("not_applicable", None))
    }
    return json.dumps({**counts, "findings": [_finite(one) for one in findings]}, indent=2)


def _finite(finding: dict[str, Any]) -> dict[str, Any]:
    """JSON has no infinity: an error that is one is null."""
    return finding | {"error": None if finding["error"] == float("inf") else finding["error"]}
