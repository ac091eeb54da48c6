"""docs/interop.md is made of its text and of the results that there are."""

import importlib
import json

import pytest
from benchmarks.measured import MEASURED_ON

EQUAL = {
    "family": "one",
    "experts": "OneExperts",
    "equal": True,
    "forward_error": 1e-7,
    "gradient_error": 2e-6,
    "k": 2,
    "num_experts": 4,
    "gated": True,
    "interleaved": False,
    "transposed": True,
    "bias": False,
    "norm": False,
    "own_gate": False,
}


@pytest.fixture
def made():
    return importlib.import_module("interop_page")


def test_families_that_are_not_equal_stand_out(made, tmp_path):
    failed = EQUAL | {"family": "two", "equal": False, "gradient_error": 0.5}
    absent = {"family": "three", "experts": "ThreeExperts", "equal": False, "reason": "ValueError: no config"}
    found = {"measured_on": MEASURED_ON, "families": [EQUAL, failed, absent]}
    (tmp_path / "interop_families.json").write_text(json.dumps(found))
    lines = made.page("before\n<!-- families -->\nafter", tmp_path).splitlines()
    assert lines[1].startswith("1 of 3 kinds of experts, in 3 families, are equal: A CPU, 1 thread, float32, torch 2,")
    assert lines[-4:-1] == [
        "| one | OneExperts | gated, transposed | 2 of 4 | 1.0e-07 | 2.0e-06 | yes |",
        "| two | OneExperts | gated, transposed | 2 of 4 | 1.0e-07 | 5.0e-01 | NO |",
        "| three | ThreeExperts | ValueError: no config | | | | no |",
    ]


def test_a_family_that_is_slower_stands_out(made, tmp_path):
    spread = {"median": 0.9, "quartile_1": 0.8, "quartile_3": 1.0}
    claim = {"claim": "one", **spread, "limit": "at least 1.0", "holds": False}
    shape = {"tokens": 8, "dim": 4, "hidden": 6, "experts": 3, "k": 2}
    part = {"family": "one", "experts": "OneExperts", "shape": shape, "claims": [claim]}
    part["times_as_fast_as"] = {"eager": spread | {"median": 2}, "grouped_mm": spread}
    found = {"measured_on": MEASURED_ON, "claims": [claim | {"claim": "all"}], "parts": [part]}
    (tmp_path / "interop.json").write_text(json.dumps(found))
    lines = made.page("<!-- interop -->", tmp_path).splitlines()
    assert "| all | at least 1.0 | 0.9 (0.8 to 1) | FAILS |" in lines
    assert lines[-1] == "| one | OneExperts | 8, 4 x 6, 2 of 3 | 2 (0.8 to 1) | 0.9 (0.8 to 1) | FAILS |"
