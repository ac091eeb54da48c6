"""docs/classic.md is made of its text and of the results that there are."""

import ast
import importlib
import json
import re
from pathlib import Path

import pytest
from benchmarks.measured import MEASURED_ON

from sparsemix.classic import HierarchicalMoEClassifier, MoERegressor

ROOT = Path(__file__).parents[2]


@pytest.fixture
def made():
    return importlib.import_module("classic_page")


def test_pictures_of_the_page_are_there(made):
    pictures = re.findall(r"\]\((images/.*?)\)", made.TEXT.read_text(encoding="utf-8"))
    assert len(pictures) == 3
    assert all((ROOT / "docs" / picture).is_file() for picture in pictures)


@pytest.mark.parametrize("estimator", [MoERegressor(), HierarchicalMoEClassifier()])
def test_every_parameter_is_explained_with_its_default(made, estimator):
    rows = re.findall(r"^\| (`.*?) \| (.*?) \|", made.TEXT.read_text(encoding="utf-8"), re.MULTILINE)
    said = {name: default for names, defaults in rows for name, default in pairs(names, defaults)}
    for name, value in estimator.get_params(deep=False).items():
        assert ast.literal_eval(said[name]) == value, name


def pairs(names, defaults):
    """Of `a`, `b` and `1`, `2`: a and 1, b and 2."""
    return zip(re.findall(r"`(.+?)`", names), re.findall(r"`(.+?)`", defaults))


def test_the_lowest_error_is_bold_and_failures_are_counted(made, tmp_path):
    function = {
        "function": "Sphere",
        "columns": 2,
        "points": 40,
        "median": {"sparsemix": 0.012, "SMT MOE": 0.5, "egobox": None},
        "failed": {"sparsemix": 0, "SMT MOE": 1, "egobox": 10},
    }
    (tmp_path / "classic_surrogates.json").write_text(
        json.dumps({"measured_on": MEASURED_ON, "functions": [function], "claims": []})
    )
    rows = made.page("<!-- surrogates -->", tmp_path).splitlines()
    assert "| Sphere, 2 x 40 | **0.012** | 0.5 (1) | none (10) |" in rows


def test_the_best_of_each_measure_is_bold(made, tmp_path):
    models = {
        "mixture": {"mean": [0.9, -1.0], "deviation": [0.01, 0.1]},
        "its expert alone": {"mean": [0.8, -0.5], "deviation": [0.02, 0.2]},
    }
    problem = {"problem": "one", "regimes": True, "measures": ["R2", "log-likelihood"], "models": models}
    found = {"measured_on": MEASURED_ON, "problems": [problem], "claims": []}
    (tmp_path / "classic_tables.json").write_text(json.dumps(found))
    rows = made.page("<!-- tables -->", tmp_path).splitlines()
    assert "| one (regimes) | R2 | **0.900** ± 0.010 | 0.800 ± 0.020 |" in rows
    assert "| one (regimes) | log-likelihood | -1.000 ± 0.100 | **-0.500** ± 0.200 |" in rows
