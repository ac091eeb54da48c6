"""All results in one table, and the page made of them: docs/performance.md with its plots."""

from __future__ import annotations

import argparse
import ast
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gpu_layer import not_measured
from green import ROOT
from plots import growth_plot, share_plot
from rich.console import Console
from rich.table import Table

from sparsemix.files import write_text

ORDER = ("layer", "growth", "one_token", "memory", "generation", "train_throughput", "dense_twin", "gpu_layer")
ELSEWHERE = ("interop", "interop_memory", "surgery_memory", "export_demo", "gguf_speed")
"""What docs/interop.md shows."""
CLASSIC = "classic_"
"""How the results begin that docs/classic.md shows."""
PLOTS = {
    "layer": ("share_of_peak.png", "Share of the peak of large products", share_plot),
    "growth": ("growth.png", "Time of a layer against its number of experts", growth_plot),
}
HEAD = """# Performance

Made by `make bench` from `benchmarks/results/*.json`; do not edit. Each line is a ratio: of the times of two things
that took turns in one process (A B, B A, ...), as the median over all rounds with the quartiles in brackets; or of
bytes. A claim without a target is only reported. Nothing is timed unless the tests of the kernels pass and its values
are right. For all contestants alike, the process keeps freed memory rather than giving it back to the system, as the
command line does.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table; write the page and its plots."""
    parser = argparse.ArgumentParser(description="Table and page of all results")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the results")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="folder of the page")
    settings = parser.parse_args(argv)
    results = read(settings.results)
    Console().print(table(results))
    for name in PLOTS.keys() & results.keys():
        file, _, plot = PLOTS[name]
        plot(results[name]).savefig(settings.docs / file, dpi=120)
    write_text(settings.docs / "performance.md", page(results))


def read(folder: Path) -> dict[str, Any]:
    """What each benchmark claims, in the order of the page; unknown ones last. That of a GPU is never left out."""
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}
    found = {
        name: result
        for name, result in found.items()
        if any(claims(result)) and name not in ELSEWHERE and not name.startswith(CLASSIC)
    }
    found.setdefault("gpu_layer", not_measured())
    first = [name for name in ORDER if name in found]
    return {name: found[name] for name in [*first, *(name for name in found if name not in ORDER)]}


def claims(result: Any) -> Iterator[Mapping[str, Any]]:
    """Every claim in a result, however deep."""
    if isinstance(result, dict):
        if "claim" in result:
            yield result
        for value in result.values():
            yield from claims(value)
    elif isinstance(result, list):
        for value in result:
            yield from claims(value)


def table(results: Mapping[str, Any]) -> Table:
    """Claim, target, measured, holds."""
    made = Table("claim", "target", "measured", "holds", title="Benchmarks")
    for result in results.values():
        made.add_section()
        for one in claims(result):
            colour = {"FAILS": "red", "yes": "green"}.get(verdict(one), "dim")
            made.add_row(one["claim"], target(one), measured(one), f"[{colour}]{verdict(one)}[/]")
    return made


def target(one: Mapping[str, Any]) -> str:
    """What the claim says."""
    return one["limit"] or "none"


def measured(one: Mapping[str, Any]) -> str:
    """The median, and the quartiles where they differ from it; or why there is none."""
    if "not_measured" in one:
        return f"not measured yet: {one['not_measured']}"
    low, median, high = (f"{one[key]:.3g}" for key in ("quartile_1", "median", "quartile_3"))
    return median if low == high else f"{median} ({low} to {high})"


def verdict(one: Mapping[str, Any]) -> str:
    """Whether it holds."""
    return {True: "yes", False: "FAILS", None: "-"}[one["holds"]]


def page(results: Mapping[str, Any]) -> str:
    """The page in Markdown."""
    return "\n".join([HEAD, *(section(name, result) for name, result in results.items())])


def section(name: str, result: Mapping[str, Any]) -> str:
    """What one benchmark measured, and on what."""
    rows = [f"| {one['claim']} | {target(one)} | {measured(one)} | {verdict(one)} |" for one in claims(result)]
    lines = [
        f"## {purpose(name)}",
        "",
        f"`benchmarks/{name}.py`, {circumstances(result)}.",
        "",
        "| claim | target | measured | holds |",
        "|---|---|---|---|",
        *rows,
        "",
    ]
    if name in PLOTS:
        file, words, _ = PLOTS[name]
        lines += [f"![{words}]({file})", ""]
    return "\n".join(lines)


def purpose(name: str) -> str:
    """The first line of what the benchmark says of itself, without the detail after its colon."""
    source = ROOT / "benchmarks" / f"{name}.py"
    words = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8")))
    assert words is not None
    return words.splitlines()[0].partition(":")[0].rstrip(".")


def circumstances(result: Mapping[str, Any]) -> str:
    """On what it was measured, or why it was not."""
    if "not_measured" in result:
        return f"not measured yet: {result['not_measured']}"
    return machine(result["measured_on"])


def machine(found: Mapping[str, Any]) -> str:
    """On what, with what, when."""
    device = found["cpu"] if found["device"] == "cpu" else found["device"]
    versions = ", ".join(f"{package} {number}" for package, number in found["versions"].items() if number)
    threads = found["threads"]
    commit = "no commit" if found["commit"] is None else f"commit {found['commit'][:9]}" + changed(found["commit"])
    return (
        f"{device}, {threads} thread{'s' * (threads > 1)}, {found['dtype']}, {versions}, {commit}, {found['date'][:10]}"
    )


def changed(commit: str) -> str:
    """Whether the package differed from the commit."""
    return " with changes" if commit.endswith("+changes") else ""


if __name__ == "__main__":
    main()
