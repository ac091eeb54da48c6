"""examples/tabular.py runs, finds the three laws, and saves its picture."""

import importlib
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def tabular(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setenv("MPLBACKEND", "agg")
    return importlib.import_module("tabular")


def test_it_finds_the_laws_and_saves_a_picture(tabular, tmp_path, capsys):
    picture = tmp_path / "found.png"
    scores = tabular.main(["--picture", str(picture), "--rows", "800"])
    assert scores["mixture"] > scores["boosting"] > scores["one line"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "BIC chooses 3 experts" in capsys.readouterr().out
