"""What a path is, and which proofs there are of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sparsemix.balance import Loss
from sparsemix.checks import check
from sparsemix.config import read_json
from sparsemix.data import Batch
from sparsemix.kernels import BackendName
from sparsemix.layer import MoEConfig
from sparsemix.models import Decoder, DecoderConfig
from sparsemix.runs import RunFolder, read_metrics
from sparsemix.runs.folder import RUN
from sparsemix.train import AdamWConfig, TrainConfig, choose_precision
from sparsemix.verify import (
    Finding,
    Step,
    Subject,
    check_metrics,
    check_tensors,
    some_tokens,
    verify_decoder,
    verify_layer,
)

LAYER_DIM = 64
"""Width of a layer whose config stands alone, since it says none."""
SEQUENCE = 5
"""Likewise, length of items that are sequences."""
Proof = tuple[str, Iterator[Finding]]


class Asked(NamedTuple):
    """How to prove."""

    tokens: int
    layers: tuple[int, ...]
    triton: bool
    device: str

    @property
    def backends(self) -> tuple[BackendName, ...]:
        """Triton's kernels where there is a GPU, or where they are asked for."""
        usual: tuple[BackendName, ...] = ("reference", "cpu", "cpp", "native")
        return (*usual, "triton") if self.triton or self.torch_device.type == "cuda" else usual

    @property
    def torch_device(self) -> torch.device:
        return choose_precision(self.device, "float32").device


def proofs(path: Path, asked: Asked) -> list[Proof]:
    """What is proven of a path, by name; nothing is computed yet.

    Raises:
        ValueError: there is no such thing, or it cannot be read.
    """
    if not path.is_dir():
        return [(path.name, _of_file(path, asked))]
    if (path / RUN).is_file():
        return [(path.name, _of_run(path, asked))]
    runs = sorted(found.parent for found in path.glob(f"*/{RUN}"))
    if runs:
        return [(f"{path.name}/{run.name}", _of_run(run, asked)) for run in runs]
    return [(path.name, _of_model(path, asked))]


def _of_file(path: Path, asked: Asked) -> Iterator[Finding]:
    """Of weights that were just drawn: all mixtures of a decoder are then alike, and the first stands for all."""
    keys = _keys(path)
    if "num_experts" in keys:
        return _of_layer(read_json(MoEConfig, path), asked)
    if "vocab_size" in keys:
        model = read_json(DecoderConfig, path)
        config = TrainConfig(model=model, optimizer=AdamWConfig(), sequence_length=min(256, model.context))
    else:
        config = read_json(TrainConfig, path)
    decoder = config.model.build(config.seed)
    asked = asked._replace(layers=asked.layers or config.model.moe_layers[:1])
    return _of_decoder(decoder, config, asked, ())


def _of_layer(config: MoEConfig, asked: Asked) -> Iterator[Finding]:
    torch.manual_seed(0)
    moe = config.build(LAYER_DIM).to(asked.torch_device)
    shape = (*[SEQUENCE] * (config.item_dims - 1), LAYER_DIM)
    subject = Subject(moe, "layer", shape, asked.tokens, config.router.losses(config.num_experts))
    return verify_layer(subject, asked.backends)


def _of_decoder(decoder: Decoder, config: TrainConfig, asked: Asked, files: Sequence[Path]) -> Iterator[Finding]:
    _check_layers(config.model, asked.layers)
    tokens = min(asked.tokens, 2 * config.model.context)
    tokens_BS = some_tokens(config.model.vocab_size, tokens, files).to(asked.torch_device)
    return verify_decoder(
        decoder.to(asked.torch_device),
        tokens_BS,
        _losses(config),
        layers=asked.layers or None,
        step=_step_of(replace(config, device=asked.device, dtype="float32", compile=False)),
        backends=asked.backends,
    )


def _of_run(path: Path, asked: Asked) -> Iterator[Finding]:
    raise NotImplementedError


def _of_model(path: Path, asked: Asked) -> Iterator[Finding]:
    raise NotImplementedError


def _losses(config: TrainConfig) -> tuple[Loss, ...]:
    return config.balance.build(config.model).losses


def _step_of(config: TrainConfig) -> Step:
    """A step of this training, at its peak learning rate: the first ones of a warm-up are too short to be seen."""

    def step(decoder: Decoder, tokens_BS: Tensor) -> None:
        tokens = tokens_BS.cpu().numpy()
        ones = np.ones(tokens[:, 1:].shape, dtype=np.float32)
        batch = Batch(tokens[:, :-1], tokens[:, 1:], ones, None, None)
        config.build(decoder, multiplier=lambda number: 1.0).step([batch])

    return step


def _check_layers(config: DecoderConfig, layers: Sequence[int]) -> None:
    for layer in layers:
        rule = f"must be among the blocks with a mixture, {', '.join(map(str, config.moe_layers)) or 'of which there are none'}"
        check(layer in config.moe_layers, "layers", rule, layer, "choose others")


def _keys(path: Path) -> set[str]:
    """Of a JSON object; of what cannot be read, none."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return set()
    return set(document) if isinstance(document, dict) else set()
