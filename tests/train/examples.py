"""Small models, texts, batches and accidents that the tests of training share."""

from pathlib import Path

import numpy as np
import pytest
import torch

from sparsemix.data import Batch
from sparsemix.experts import GLUExpertsConfig
from sparsemix.layer import MoEConfig
from sparsemix.models import AttentionConfig, DecoderConfig
from sparsemix.routers import (
    DenseRouterConfig,
    NoisyTopKRouterConfig,
    ReLURouterConfig,
    RouterConfig,
    SelectionBiasConfig,
    TopKRouterConfig,
)
from sparsemix.runs import read_metrics
from sparsemix.train import AdamWConfig, BalanceConfig, DataConfig, MuonConfig, Precision, TrainConfig, Trainer
from sparsemix.train.step import GradientStep

WORDS = ["the", "router", "sends", "each", "token", "to", "few", "experts", "and", "learns", "what", "it", "is"]


def tiny_model(router: RouterConfig = TopKRouterConfig(k=2), **changes) -> DecoderConfig:  # noqa: B008
    values = {
        "vocab_size": 257,
        "dim": 16,
        "num_layers": 2,
        "context": 32,
        "attention": AttentionConfig(num_heads=2),
        "moe": MoEConfig(num_experts=4, router=router, experts=GLUExpertsConfig(hidden=8)),
    }
    return DecoderConfig(**(values | changes))


NOISY = tiny_model(NoisyTopKRouterConfig(k=2))
BIASED = tiny_model(TopKRouterConfig(k=2, selection_bias=SelectionBiasConfig()))
PENALISED = tiny_model(ReLURouterConfig(k=2, coefficient=0.01))
TOTALLED = tiny_model(DenseRouterConfig(margin=1.0))
stateful = pytest.mark.parametrize(
    "model", [NOISY, BIASED, PENALISED, TOTALLED], ids=["noise", "bias", "coefficient", "totals"]
)
"""Noise in forward, and state that follows the load: what a checkpoint must bring back beside the weights."""


def write_text(folder: Path, num_files: int = 12) -> Path:
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(num_files):
        (folder / f"{number}.txt").write_text(" ".join(rng.choice(WORDS, 200)))
    return folder


def tiny_config(text: Path | str = "builtin", **changes) -> TrainConfig:
    values = {
        "model": tiny_model(),
        "data": DataConfig(sources=(str(text),), held_out=0.1),
        "optimizer": MuonConfig(lr=0.02, rest=AdamWConfig(lr=0.003), dtype="float32"),
        "steps": 6,
        "batch_size": 4,
        "sequence_length": 16,
        "evaluate_every": 3,
        "checkpoint_every": 2,
        "eval_tokens": 64,
    }
    return TrainConfig(**(values | changes))


def random_batch(rows: int = 4, length: int = 16, seed: int = 0, vocab_size: int = 257) -> Batch:
    """Weights of 0 and 1, so that micro-batches differ in weight."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, vocab_size, (rows, length + 1))
    weight_BS = (rng.random((rows, length)) < rng.random((rows, 1))).astype(np.float32)
    weight_BS[:, 0] = 1
    return Batch(tokens[:, :-1].copy(), tokens[:, 1:].copy(), weight_BS, None, None)


def gradient_step(balance: BalanceConfig, model: DecoderConfig, **changes) -> GradientStep:
    """In float64, from the same weights each time."""
    return GradientStep(model.build(0).double(), balance.build(model), Precision(), **changes)


def gradients(step: GradientStep) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in step.model.named_parameters() if p.grad is not None}


def tiny_trainer(**changes) -> Trainer:
    return tiny_config(**changes).build()


class Crash(BaseException):
    """Like a power cut: nothing in the loop expects it."""


def at_step(step, act):
    """An observer that does something once, in the middle of a step."""

    def observer(number, layer, routing):
        if (number, layer) == (step, 1):
            act()

    return [observer]


def crash():
    raise Crash


def curve(out):
    return [{k: v for k, v in one.items() if k != "seconds"} for one in read_metrics(out / "metrics.jsonl")]


def weights(out, step=6):
    return {path.name: path.read_bytes() for path in (out / f"checkpoints/step-{step:08}").glob("*.safetensors")}


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
