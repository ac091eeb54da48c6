"""Makes docs/interop.md of its text, interop_page.md, and of the results that the text has places for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from filled import RESULTS, Result, claim_table, filled, shown, source, table
from green import ROOT
from report import machine, measured, verdict

from sparsemix.files import write_text

TEXT = Path(__file__).with_suffix(".md")


def main() -> None:
    """Write the page."""
    write_text(ROOT / "docs" / "interop.md", page(TEXT.read_text(encoding="utf-8"), RESULTS))


def page(text: str, results: Path) -> str:
    """The text with tables in its places."""
    return filled(text, lambda name: section(name, results))


def section(name: str, results: Path) -> Iterator[str]:
    """Of one result; `families` is that of interop_families.json."""
    path = results / f"{'interop_families' if name == 'families' else name}.json"
    command = f"benchmarks/{path.stem}.py"

    def plain(found: Result) -> Iterator[str]:
        yield from source(command, found)
        yield from claim_table(found)

    yield from shown(path, command, {"families": _families, "interop": _speeds}.get(name, plain))


def _families(found: Result) -> Iterator[str]:
    rows = found["families"]
    equal = sum(bool(one.get("equal")) for one in rows)
    names = len({one["family"] for one in rows})
    yield f"{equal} of {len(rows)} kinds of experts, in {names} families, are equal: {machine(found['measured_on'])}."
    yield ""
    yield from table(("family", "experts", "layout", "k of E", "forward", "gradients", "equal"), map(_family, rows))


def _family(one: Result) -> list[str]:
    if "reason" in one:
        return [one["family"], one["experts"], one["reason"], "", "", "", "no"]
    errors = [f"{one[f'{what}_error']:.1e}" for what in ("forward", "gradient")]
    asked = f"{one['k']} of {one['num_experts']}"
    return [one["family"], one["experts"], _layout(one), asked, *errors, "yes" if one["equal"] else "NO"]


def _layout(one: Result) -> str:
    words = {
        "gated": "gated" if one["gated"] else "no gate",
        "interleaved": "alternating",
        "transposed": "transposed",
        "bias": "biases",
        "norm": "norm behind",
        "own_gate": "own gate",
    }
    return ", ".join(word for key, word in words.items() if one[key] or key == "gated")


def _speeds(found: Result) -> Iterator[str]:
    """The claim about all, then a short line for each."""
    yield from source("benchmarks/interop.py", found)
    yield from claim_table(found["claims"])
    yield ""
    yield "A training step of the experts of each, times as fast as; T tokens, dimensions d by F, k of E experts:"
    yield ""
    head = ("family", "experts", "T, d x F, k of E", "eager", "grouped_mm", "at least 1.0")
    yield from table(head, map(_speed, found["parts"]))


def _speed(part: Result) -> list[str]:
    shape, faster = part["shape"], part["times_as_fast_as"]
    sizes = f"{shape['tokens']}, {shape['dim']} x {shape['hidden']}, {shape['k']} of {shape['experts']}"
    ratios = [measured(faster[name]) for name in ("eager", "grouped_mm")]
    return [part["family"], part["experts"], sizes, *ratios, verdict(part["claims"][0])]


if __name__ == "__main__":
    main()
