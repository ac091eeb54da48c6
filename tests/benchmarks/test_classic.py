"""Each part of the classic benchmark runs on a toy size and states its claims; no time and no error is judged."""

import importlib
import json
import shutil
import subprocess

import numpy as np
import pytest
from benchmarks.test_benchmarks import script


def run(part, folder):
    script("classic").main([part, "--toy", "--out", str(folder)])
    (path,) = folder.iterdir()
    assert path.name == f"classic_{part}.json"
    found = json.loads(path.read_text())
    assert found["measured_on"]["threads"] == 1
    assert found["measured_on"]["dtype"] == "float64"
    return found


def needs_flexmix():
    if shutil.which("Rscript") is None:
        pytest.skip("R is not installed")
    asked = ("Rscript", "--vanilla", "-e", "library(flexmix)")
    if subprocess.run(asked, capture_output=True, check=False).returncode != 0:
        pytest.skip("flexmix is not installed in R")


@pytest.mark.slow
def test_flexmix(tmp_path):
    needs_flexmix()
    found = run("flexmix", tmp_path)
    (case,) = found["cases"]
    assert [fit["components"] for fit in case["fits"]] == [1, 2]
    assert [one["limit"] for one in case["claims"]] == ["at least -1e-06", "at least 0 and at most 0"]
    assert {"R", "flexmix"} <= set(found["measured_on"]["versions"])


@pytest.mark.slow
def test_fit(tmp_path):
    pytest.importorskip("smt")
    needs_flexmix()
    found = run("fit", tmp_path)
    (size,) = found["sizes"]
    assert size["flexmix"]["components"] == 8
    assert size["ours"]["seconds"]["median"] > 0
    assert size["smt"]["error"] > 0


@pytest.mark.slow
def test_surrogates(tmp_path):
    pytest.importorskip("smt")
    pytest.importorskip("egobox")
    found = run("surrogates", tmp_path)
    assert [len(one["errors"]["sparsemix, defaults"]) for one in found["functions"]] == [2]
    assert [one["limit"] for one in found["claims"]] == ["at least 1"] * 6


def test_medians_are_compared_over_designs_that_both_could_fit():
    lower = importlib.import_module("classic_surrogates").lower
    assert lower([1.0, 2.0, 9.0], [1.5, 2.5, None])
    assert not lower([1.0, 2.0, 9.0], [None, None, 8.0])
    assert lower([1.0], [None])


@pytest.mark.slow
def test_tables(tmp_path):
    (problem,) = run("tables", tmp_path)["problems"]
    assert set(problem["models"]) == {
        *("mixture", "its expert alone", "random forest", "gradient boosting", "stacking", "voting")
    }
    assert problem["models"]["mixture"]["mean"][0] > problem["models"]["its expert alone"]["mean"][0] + 0.5


def test_predict(tmp_path):
    found = run("predict", tmp_path)
    assert found["rows"] == 2000
    assert [one["limit"] for one in found["claims"]] == ["at most 3"]


def test_without_r_it_says_what_to_install(monkeypatch):
    classic_r = importlib.import_module("classic_r")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match="Rscript: must be installed"):
        classic_r.flexmix_version()


def test_the_likelihood_is_that_of_a_mixture_computed_by_hand():
    made = importlib.import_module("classic_flexmix")
    parts = [
        {"coef.(Intercept)": 1.0, "coef.x": 2.0, "sigma": 0.5, "prior": 0.25},
        {"coef.(Intercept)": 0.0, "coef.x": -1.0, "sigma": 2.0, "prior": 0.75},
    ]
    X, y = np.array([[0.3], [-1.0]]), np.array([1.2, 0.1])
    expected = 0.0
    for x, target in zip(X[:, 0], y, strict=True):
        first = 0.25 * np.exp(-0.5 * ((target - 1 - 2 * x) / 0.5) ** 2) / 0.5
        second = 0.75 * np.exp(-0.5 * ((target + x) / 2) ** 2) / 2
        expected += np.log((first + second) / np.sqrt(2 * np.pi))
    case = made.CASES[0]
    assert made.log_likelihood(case, y, *made.read_theirs(case, parts, X)) == pytest.approx(expected, rel=1e-12)


def test_a_likelihood_that_differs_is_refused():
    made = importlib.import_module("classic_flexmix")
    made.must_be_same("one", -100.0, -100.00001)
    with pytest.raises(ValueError, match="one: log-likelihoods must agree"):
        made.must_be_same("one", -100.0, -100.1)
