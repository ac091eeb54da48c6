"""The example with transformers' Trainer: it learns, and as it would by transformers' own loop."""

import importlib
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.mark.slow
def test_the_example_learns_what_it_learns_without_us(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    losses = []
    for experts in ("sparsemix", "eager"):
        torch.manual_seed(0)
        losses.append(importlib.import_module("trainer").main(["--steps", "20", "--experts", experts]))
    assert losses[0] == pytest.approx(losses[1], abs=2e-3)
    assert losses[0][-1] < losses[0][0] - 0.5
