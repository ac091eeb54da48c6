"""The memory benchmark runs, and what it measures with sees a tensor that is there."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.slow
def test_memory(tmp_path):
    importlib.import_module("memory").main(["--toy", "--threads", "1", "--out", str(tmp_path)])
    result = json.loads((tmp_path / "memory.json").read_text())
    assert [one["shape"]["experts"] for one in result["saved"]] == [8, 16, 32, 64]
    assert len({one["formula_bytes"] for one in result["saved"]}) == 1
    for one in result["saved"]:
        assert one["limit"] == "at least 0.95 and at most 1.05"
        assert 0 < one["index_and_weight_bytes_per_edge"] < 100
    assert all(one["accounted"] > 0 for one in result["live"])
    step = result["step"]
    assert step["gradients"] == step["parameters"] == 4 * (64 * 32 + 3 * 64 * 32 * 32)  # router and experts
    assert step["optimizer"] >= 2 * step["parameters"]
    assert step["claims"][0]["limit"] == "at most 0.5"


def test_memory_kept_for_backward_is_counted_once():
    saved_tensors = importlib.import_module("saved_tensors")
    x_TD = torch.randn(6, 5, requires_grad=True)
    w_DF = torch.randn(5, 3, requires_grad=True)

    def call():
        h_TF = x_TD @ w_DF  # keeps x and w
        return h_TF.sin() + h_TF[:2].cos().sum()  # keeps h, and a view of it

    result, kept = saved_tensors.saved_storages(call, without=[w_DF])
    assert result.shape == (6, 3)
    assert saved_tensors.saved_bytes(kept) == 4 * (6 * 5 + 6 * 3)


PROBE = """
import memory_probe, torch
torch.ones(2**20)
memory_probe.reset_high_water()
before = memory_probe.resident()
temporary = torch.ones(2**24)  # 64 MiB
grown = memory_probe.resident() - before
del temporary
peak = memory_probe.high_water() - before
memory_probe.reset_high_water()
print(grown, peak, memory_probe.high_water() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_peak_and_what_is_held_are_seen():
    folder = Path(importlib.import_module("memory_probe").__file__).parent  # a process that has kept no freed memory
    command = [sys.executable, "-c", PROBE]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    grown, peak, afterwards = map(int, done.stdout.split())
    assert grown == pytest.approx(2**26, rel=0.1)
    assert peak == pytest.approx(2**26, rel=0.1)
    assert afterwards < 2**25
