"""Makes docs/interop.md of its text, interop_page.md, and of the results that the text has places for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from green import ROOT
from report import circumstances, claims, machine, measured, target, verdict

from sparsemix.files import write_text

RESULTS = ROOT / "benchmarks" / "results"
TEXT = Path(__file__).with_suffix(".md")
PLACE = re.compile(r"^<!-- (\w+) -->$", re.MULTILINE)


def main() -> None:
    """Write the page."""
    write_text(ROOT / "docs" / "interop.md", page(TEXT.read_text(encoding="utf-8"), RESULTS))


def page(text: str, results: Path) -> str:
    """The text with tables in its places."""
    return PLACE.sub(lambda place: "\n".join(table(place[1], results)), text)


def table(name: str, results: Path) -> Iterator[str]:
    """Of one result; `families` is that of interop_families.json."""
    path = results / f"{'interop_families' if name == 'families' else name}.json"
    if not path.is_file():
        yield f"Not measured yet (`benchmarks/{path.stem}.py`)."
        return
    found = json.loads(path.read_text(encoding="utf-8"))
    tables = {"families": _families, "interop": _speeds}
    yield from tables[name](found) if name in tables else _claims(path.stem, found, found)


def _families(found: Mapping[str, Any]) -> Iterator[str]:
    rows = found["families"]
    equal = sum(bool(row.get("equal")) for row in rows)
    names = len({row["family"] for row in rows})
    yield f"{equal} of {len(rows)} kinds of experts, in {names} families, are equal: {machine(found['measured_on'])}."
    yield ""
    yield "| family | experts | layout | k of E | forward | gradients | equal |"
    yield "|---|---|---|---|---|---|---|"
    for row in rows:
        if "reason" in row:
            yield f"| {row['family']} | {row['experts']} | {row['reason']} | | | | no |"
            continue
        errors = f"{row['forward_error']:.1e} | {row['gradient_error']:.1e} | {'yes' if row['equal'] else 'NO'}"
        yield f"| {row['family']} | {row['experts']} | {_layout(row)} | {row['k']} of {row['num_experts']} | {errors} |"


def _layout(row: Mapping[str, Any]) -> str:
    words = {
        "gated": "gated" if row["gated"] else "no gate",
        "interleaved": "alternating",
        "transposed": "transposed",
        "bias": "biases",
        "norm": "norm behind",
        "own_gate": "own gate",
    }
    return ", ".join(word for key, word in words.items() if row[key] or key == "gated")


def _speeds(found: Mapping[str, Any]) -> Iterator[str]:
    """The claim about all, then a short line for each."""
    yield from _claims("interop", found, found["claims"])
    yield ""
    yield "A training step of the experts of each, times as fast as; T tokens, dimensions d by F, k of E experts:"
    yield ""
    yield "| family | experts | T, d x F, k of E | eager | grouped_mm | at least 1.0 |"
    yield "|---|---|---|---|---|---|"
    for part in found["parts"]:
        shape, faster = part["shape"], part["times_as_fast_as"]
        sizes = f"{shape['tokens']}, {shape['dim']} x {shape['hidden']}, {shape['k']} of {shape['experts']}"
        ratios = " | ".join(measured(faster[name]) for name in ("eager", "grouped_mm"))
        yield f"| {part['family']} | {part['experts']} | {sizes} | {ratios} | {verdict(part['claims'][0])} |"


def _claims(name: str, found: Mapping[str, Any], within: Any) -> Iterator[str]:
    """Those in a part of what was found."""
    yield f"`benchmarks/{name}.py`, {circumstances(found)}."
    yield ""
    yield "| claim | target | measured | holds |"
    yield "|---|---|---|---|"
    for one in claims(within):
        yield f"| {one['claim']} | {target(one)} | {measured(one)} | {verdict(one)} |"


if __name__ == "__main__":
    main()
