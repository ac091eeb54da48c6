"""What a path is, and which proofs there are of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sparsemix.checks import check
from sparsemix.cli.proof_step import losses_of, step_of
from sparsemix.config import from_json, read_json
from sparsemix.interop import StoredModel, build, open_model
from sparsemix.interop.decoders import decoder_specs
from sparsemix.interop.families import FAMILIES
from sparsemix.interop.own import CONFIG, MODEL_TYPE
from sparsemix.kernels import BackendName
from sparsemix.layer import MoEConfig
from sparsemix.models import Decoder, DecoderConfig
from sparsemix.runs import RunFolder, is_run, read_metrics
from sparsemix.runs.folder import RUN
from sparsemix.surgery import open_recorded
from sparsemix.tensors import open_folder
from sparsemix.train import AdamWConfig, BalanceConfig, TrainConfig, choose_precision
from sparsemix.verify import (
    Finding,
    Subject,
    check_experts,
    check_logits,
    check_metrics,
    check_room,
    check_tensors,
    reach,
    some_tokens,
    verify_blocks,
    verify_decoder,
    verify_layer,
)

SMALL = 20_000_000
"""Parameters of models whose products are too small for threads: on a busy machine these cost twenty times the time."""
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


def proofs(path: Path, asked: Asked) -> Iterator[Proof]:
    """What is proven of a path, by name; of a folder of runs, each is opened when its turn comes.

    Raises:
        ValueError: there is no such thing, or it cannot be read.
    """
    name = path.resolve().name
    if not path.is_dir():
        yield name, _of_file(path, asked)
    elif is_run(path):
        yield name, _of_run(path, asked)
    elif runs := sorted(found.parent for found in path.glob(f"*/{RUN}")):
        for run in runs:
            yield f"{name}/{run.name}", _of_run(run, asked)
    else:
        yield name, _of_model(path, asked)


def _of_file(path: Path, asked: Asked) -> Iterator[Finding]:
    """A config has no weights, so they are drawn; mixtures are then alike, and the first stands for all."""
    keys = _read_object(path)
    if "num_experts" in keys:
        _check_no_layers(asked, "the config of a layer")
        return _of_layer(read_json(MoEConfig, path), asked)
    if "vocab_size" in keys:
        model = read_json(DecoderConfig, path)
        config = TrainConfig(model=model, optimizer=AdamWConfig(), sequence_length=min(256, model.context))
    else:
        config = read_json(TrainConfig, path)
    check_room(decoder_specs(config.model), asked.torch_device, "verify a smaller model, or the config of a layer")
    decoder = config.model.build(config.seed)
    asked = asked._replace(layers=asked.layers or config.model.moe_layers[:1])
    return _of_decoder(decoder, config, asked, ())


def _of_layer(config: MoEConfig, asked: Asked) -> Iterator[Finding]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    moe = config.build(LAYER_DIM).to(asked.torch_device)
    shape = (*[SEQUENCE] * (config.item_dims - 1), LAYER_DIM)
    subject = Subject(moe, "layer", shape, asked.tokens, config.router.losses(config.num_experts))
    return verify_layer(subject, asked.backends)


def _of_decoder(decoder: Decoder, config: TrainConfig, asked: Asked, files: Sequence[Path]) -> Iterator[Finding]:
    _check_layers(config.model, asked.layers)
    if sum(parameter.numel() for parameter in decoder.parameters()) < SMALL:
        torch.set_num_threads(1)
    tokens = min(asked.tokens, 2 * config.model.context)
    tokens_BS = some_tokens(config.model.vocab_size, tokens, files).to(asked.torch_device)
    return verify_decoder(
        decoder.to(asked.torch_device),
        tokens_BS,
        losses_of(config),
        layers=asked.layers or None,
        step=step_of(replace(config, device=asked.device, dtype="float32", compile=False)),
        backends=asked.backends,
    )


def _of_run(path: Path, asked: Asked) -> Iterator[Finding]:
    model, folder = open_model(path), RunFolder.open(path)
    own = _of_stored(model, folder.config(TrainConfig), asked)
    return chain(own, [check_metrics(read_metrics(folder.metrics))])


def _of_model(path: Path, asked: Asked) -> Iterator[Finding]:
    """A folder in our own format or in Hugging Face's, of a family that our decoder can be or of another."""
    kind = _read_object(path / CONFIG).get("model_type")
    if kind not in (MODEL_TYPE, *FAMILIES, None):
        return _of_stranger(path, kind, asked)
    model = open_recorded(path)
    length, losses = min(256, model.config.context), json.dumps({"losses": model.facts.get("balance_losses")})
    config = TrainConfig(
        model=model.config,
        optimizer=AdamWConfig(),
        sequence_length=length,
        balance=from_json(BalanceConfig, losses, f"{path}: balance_losses"),
    )
    return _of_stored(model, config, asked, None if kind == MODEL_TYPE else path)


def _of_stored(model: StoredModel, config: TrainConfig, asked: Asked, theirs: Path | None = None) -> Iterator[Finding]:
    """theirs: a folder that transformers can read, too."""
    config = replace(config, model=model.config)
    tensors = check_tensors(model.config, model.tensors, edited="surgery" in model.facts)
    if asked.layers:
        _check_layers(model.config, asked.layers)
        blocks = verify_blocks(model, asked.layers, losses_of(config), asked.tokens, asked.torch_device, asked.backends)
        return chain(tensors, blocks)
    check_room(model.tensors.specs, asked.torch_device, "take single blocks apart: --layers 0")
    decoder = build(model, asked.torch_device, torch.float32)
    whole = _of_decoder(decoder, config, asked, model.files)
    if theirs is None:
        return chain(tensors, whole)
    tokens_1S = some_tokens(model.config.vocab_size, 2 * reach(model.config, asked.tokens), model.files)[:1]
    logits = (check_logits(theirs, decoder, one) for one in (tokens_1S.to(asked.torch_device),))
    return chain(tensors, logits, whole)


def _of_stranger(path: Path, kind: object, asked: Asked) -> Iterator[Finding]:
    _check_no_layers(asked, f"the family {kind}, which our decoder cannot be")
    check_room(open_folder(path).specs, asked.torch_device, "verify it on a machine with more memory")
    document = _read_object(path / CONFIG)
    vocab_size: Any = document.get("vocab_size") or (document.get("text_config") or {}).get("vocab_size")
    check(isinstance(vocab_size, int), f"{path / CONFIG}: vocab_size", "must be a number", vocab_size, "give it")
    tokens_BS = some_tokens(int(vocab_size), asked.tokens, tuple(path.glob("tokenizer.json")))
    reason = f"the family {kind} is none that our decoder can be"
    return check_experts(path, tokens_BS.to(asked.torch_device), reason)


def _check_no_layers(asked: Asked, what: str) -> None:
    check(not asked.layers, "layers", f"must not be given with {what}", list(asked.layers), "leave it out")


def _check_layers(config: DecoderConfig, layers: Sequence[int]) -> None:
    there = ", ".join(map(str, config.moe_layers)) or "none"
    for layer in layers:
        rule = f"must be among the blocks with a mixture, which are {there}"
        check(layer in config.moe_layers, "layers", rule, layer, "choose others")


def _read_object(path: Path) -> dict[str, Any]:
    """A JSON object; an empty one for what cannot be read, of which others complain."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}
