"""Our back end is known to transformers; benchmarks, which build the twins, import each other by name."""

import importlib.util
from pathlib import Path

import pytest

from sparsemix.interop.transformers import register

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"

if importlib.util.find_spec("transformers") is None:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    register()
