"""Pages made of a text and of results: up to date, and honest about what is not measured."""

import importlib
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", ["classic", "interop"])
def test_the_page_is_up_to_date(name):
    made = importlib.import_module(f"{name}_page")
    text = made.TEXT.read_text(encoding="utf-8")
    assert (DOCS / f"{name}.md").read_text(encoding="utf-8") == made.page(text, made.RESULTS), "run: make docs"


@pytest.mark.parametrize(
    ("name", "place", "command"),
    [("classic", "fit", "python benchmarks/classic.py fit"), ("interop", "interop", "benchmarks/interop.py")],
)
def test_what_is_not_measured_says_how_to(name, place, command, tmp_path):
    made = importlib.import_module(f"{name}_page")
    assert made.page(f"before\n<!-- {place} -->\n", tmp_path) == f"before\nNot measured yet (`{command}`).\n"


def test_tables():
    filled = importlib.import_module("filled")
    assert list(filled.table(("a", "b", "c"), [["1", "", "3"]])) == ["| a | b | c |", "|---|---|---|", "| 1 | | 3 |"]
