"""Makes docs/classic.md of its text, classic_page.md, and of the results that the text has places for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import classic_pictures
from filled import RESULTS, Result, claim_table, filled, shown, source, table
from green import ROOT

from sparsemix.files import write_text

TEXT = Path(__file__).with_suffix(".md")


def main() -> None:
    """Write the page and its pictures."""
    write_text(ROOT / "docs" / "classic.md", page(TEXT.read_text(encoding="utf-8"), RESULTS))
    classic_pictures.draw_all(ROOT / "docs" / "images")


def page(text: str, results: Path) -> str:
    """The text with tables in its places."""
    return filled(text, lambda name: section(name, results))


def section(name: str, results: Path) -> Iterator[str]:
    """What one part measured: its table, then its claims."""
    command = f"benchmarks/classic.py {name}"

    def lines(found: Result) -> Iterator[str]:
        yield from source(command, found)
        if name in TABLES:
            yield from TABLES[name](found)
            yield ""
        yield from claim_table(found)

    yield from shown(results / f"classic_{name}.json", f"python {command}", lines)


def flexmix(found: Result) -> Iterator[str]:
    """A line for each case: both likelihoods at flexmix's number of components, both numbers."""
    rows = []
    for case in found["cases"]:
        theirs, ours = (min(case["fits"], key=lambda fit: fit[key]) for key in ("their_bic", "our_bic"))
        likelihoods = [f"{theirs[key]:.3f}" for key in ("their_log_likelihood", "our_log_likelihood")]
        rows.append([case["case"], str(case["rows"]), *likelihoods, str(theirs["components"]), str(ours["components"])])
    head = ("model", "rows", "log-likelihood, flexmix", "ours", "components by BIC, flexmix", "ours")
    yield from table(head, rows)


def surrogates(found: Result) -> Iterator[str]:
    """A line for each function, the lowest median in bold."""
    functions = found["functions"]
    names = tuple(functions[0]["median"])
    rows = []
    for one in functions:
        medians = [one["median"][name] for name in names]
        least = min(value for value in medians if value is not None)
        cells = [cell(value, value == least, one["failed"][name]) for name, value in zip(names, medians, strict=True)]
        rows.append([f"{one['function']}, {one['columns']} x {one['points']}", *cells])
    yield from table(("function, columns x points", *names), rows)


def cell(value: float | None, best: bool, failed: int) -> str:
    """A number, and how often there was none."""
    words = "none" if value is None else f"**{value:.3g}**" if best else f"{value:.3g}"
    return f"{words} ({failed})" if failed else words


def tables(found: Result) -> Iterator[str]:
    """A line for each problem and measure, the best mean in bold."""
    names = tuple(found["problems"][0]["models"])
    rows = []
    for problem in found["problems"]:
        for place, measure in enumerate(problem["measures"]):
            models = [problem["models"][name] for name in names]
            best = max(model["mean"][place] for model in models)
            cells = [spread_of(model["mean"][place], model["deviation"][place], best) for model in models]
            regimes = " (regimes)" if problem["regimes"] else ""
            rows.append([f"{problem['problem']}{regimes}", measure, *cells])
    yield from table(("problem", "measure", *names), rows)


def spread_of(mean: float, deviation: float, best: float) -> str:
    """Mean and standard deviation."""
    words = f"{mean:.3f}"
    return f"{f'**{words}**' if mean == best else words} ± {deviation:.3f}"


def fit(found: Result) -> Iterator[str]:
    """Seconds and what they bought."""
    rows = []
    for size in found["sizes"]:
        ours, theirs, smt = size["ours"], size["flexmix"], size["smt"]
        rows.append(
            [
                f"{size['rows']:,}",
                f"{ours['seconds']['median']:.1f} ({ours['iterations']})",
                f"{theirs['seconds']:.1f} ({theirs['iterations']:.0f})",
                f"{ours['log_likelihood']:.0f}",
                f"{theirs['log_likelihood']:.0f}",
                "not run" if smt is None else f"{smt['seconds']:.1f}",
                f"{ours['error']:.3f}",
                "" if smt is None else f"{smt['error']:.3f}",
            ]
        )
    seconds = ("seconds (iterations), ours", "flexmix", "log-likelihood, ours", "flexmix", "seconds, SMT")
    yield from table(("rows", *seconds, "error on other rows, ours", "SMT"), rows)


TABLES = {"flexmix": flexmix, "surrogates": surrogates, "tables": tables, "fit": fit}


if __name__ == "__main__":
    main()
