"""Each benchmark runs on a toy size and writes a result that says what was measured on what; no time is judged."""

import importlib
import json
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)


def run(name, folder):
    if name == "train_throughput":
        pytest.importorskip("transformers")
    importlib.import_module(name).main(["--toy", "--rounds", "2", "--threads", "1", "--out", str(folder)])
    (path,) = folder.iterdir()
    assert path.name == f"{name}.json"
    return json.loads(path.read_text())


def test_train_throughput(tmp_path):
    result = run("train_throughput", tmp_path)
    (shape,) = result["shapes"]
    assert shape["not_run"] == []
    for what in ("forward_backward", "forward_backward_adamw"):
        speeds = shape[what]["tokens_per_second"]
        assert set(speeds) == {"sparsemix", *(f"transformers {name}" for name in ("grouped_mm", "eager", "batched_mm"))}
        assert all(found["median"] > 0 for found in speeds.values())
    assert result["measured_on"]["threads"] == 1
    assert result["measured_on"]["versions"]["torch"] == torch.__version__


def test_dense_twin(tmp_path):
    result = run("dense_twin", tmp_path)
    assert set(result["seconds_per_step"]) == {"plain", "dense_adamw", "moe", "dense"}
    assert len(result["claims"]) == 3
    assert result["moe_over_dense"]["median"] > 0


def test_contestants_take_turns():
    harness = importlib.import_module("harness")
    calls = []
    seconds = harness.take_turns({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3, warmup=1)
    assert "".join(calls) in ("abbaabba", "baabbaab")
    assert [len(taken) for taken in seconds.values()] == [3, 3]


def test_ratios_are_taken_round_by_round():
    found = importlib.import_module("harness").ratio([2.0, 30.0, 4.0], [1.0, 10.0, 1.0])
    assert found == {"median": 3.0, "min": 2.0, "quartile_1": 2.5, "quartile_3": 3.5}


def test_what_differs_is_not_timed():
    with pytest.raises(ValueError, match=r"losses: must agree within 0\.1"):
        importlib.import_module("harness").must_agree("losses", [1.0, 2.0], [1.0, 2.2], 0.1)
