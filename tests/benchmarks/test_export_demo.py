"""The benchmark of exported models runs on a model after some steps."""

import dataclasses
import importlib
import json
from pathlib import Path

import pytest

from benchmarks.llama import PYTHON
from sparsemix.recipes.demo import TRAINING
from sparsemix.train import train

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.llama_cpp
@pytest.mark.skipif(not PYTHON.exists(), reason="needs llama.cpp; run: make test-slow")
def test_all_continue_prompts_alike(tmp_path):
    pytest.importorskip("transformers")
    data = dataclasses.replace(TRAINING.data, sources=(str(ROOT / "sparsemix"),))
    train(dataclasses.replace(TRAINING, data=data, steps=10, evaluate_every=10), tmp_path / "run")
    importlib.import_module("export_demo").main([str(tmp_path / "run"), "--out", str(tmp_path)])
    found = json.loads((tmp_path / "export_demo.json").read_text())
    assert found["steps"] == 10
    assert [one["holds"] for one in found["claims"]] == [True, True, True, None]
    assert all(lead > 0 for lead in found["margins"])
