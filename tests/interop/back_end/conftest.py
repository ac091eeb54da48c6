"""Our back end is known to transformers; benchmarks, which build the twins, import each other by name."""

from pathlib import Path

import pytest

from sparsemix.interop.transformers import register

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.syspath_prepend(BENCHMARKS)
    register()
