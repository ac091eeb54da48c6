"""A path becomes a stored model: a run, a folder of our own format, or one of Hugging Face's of a family we know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sparsemix.checks import check
from sparsemix.config import from_json
from sparsemix.data import Tokenizer
from sparsemix.interop.agree import check_tensors
from sparsemix.interop.decoders import decoder_specs
from sparsemix.interop.families import open_family
from sparsemix.interop.own import CONFIG, MODEL_TYPE, SETTINGS, TOKENIZER, files_along, open_own
from sparsemix.interop.stored import StoredModel
from sparsemix.models import DecoderConfig
from sparsemix.runs import RunError, RunFolder, is_run, read_metrics
from sparsemix.tensors.header import unique_json

MODEL = "model"
"""What a run's config calls the model, and its checkpoints the file of it."""


def open_model(path: Path) -> StoredModel:
    """The model in a folder; its tensors are read when they are wanted.

    Args:
        path: a run (at its last checkpoint), our own format, or a Hugging Face folder of a known family.

    Raises:
        ValueError: it is none of these, a file of it is missing or damaged, or config and tensors disagree.
    """
    if is_run(path):
        return open_run(path)
    rule = f"must be the folder of a run or of a model, with {CONFIG}"
    check((path / CONFIG).is_file(), "path", rule, str(path), "check the path")
    document = unique_json((path / CONFIG).read_bytes(), str(path / CONFIG))
    if document.get("model_type") == MODEL_TYPE:
        return open_own(path, document)
    return open_family(path, document)


def open_run(path: Path, step: int | None = None) -> StoredModel:
    """The model of a run, after `step` steps or at the last checkpoint.

    Raises:
        ValueError: it is no run, has no such checkpoint, or that is damaged.
    """
    folder = RunFolder.open(path)
    step = last_step(folder) if step is None else step
    asked = folder.asked()
    config = from_json(DecoderConfig, json.dumps(asked.get(MODEL)), f"{path / CONFIG}: {MODEL}")
    tensors = folder.checkpoints.open(step, MODEL)
    check_tensors(tensors.specs, decoder_specs(config), str(folder.checkpoints.path(step)))
    return StoredModel(config, tensors, MODEL_TYPE, files_along(path), _facts(folder, asked, step))


def last_step(folder: RunFolder) -> int:
    """The step of a run's last checkpoint.

    Raises:
        RunError: it has none yet.
    """
    step = folder.checkpoints.latest()
    if step is None:
        remedy = "train it longer or lower checkpoint_every"
        raise RunError(f"run: must have a checkpoint, got {folder.path} without; {remedy}")
    return step


def tokenizer_of(model: StoredModel) -> Tokenizer:
    """The tokenizer that came with a model.

    Raises:
        ValueError: there is none, it is not byte-level, or it has no end of a document.
    """
    end = model.facts.get("special_tokens", {}).get("eos_token_id")
    return Tokenizer.load(tokenizer_file(model), end[0] if isinstance(end, list) else end)


def tokenizer_file(model: StoredModel) -> Path:
    """The tokenizer.json that came with a model, of whatever kind it is.

    Raises:
        ValueError: there is none.
    """
    path = next((file for file in model.files if file.name == TOKENIZER), None)
    remedy = "put the model's tokenizer there"
    check(path is not None, "tokenizer", f"must be in the model's folder, as {TOKENIZER}", "none", remedy)
    assert path is not None
    return path


def _facts(folder: RunFolder, asked: dict[str, Any], step: int) -> dict[str, Any]:
    """What the run was, and its last evaluation by this step."""
    started = {name: value for name, value in folder.facts().items() if name != "init"}  # a path of this machine
    evaluated = [found for found in read_metrics(folder.metrics) if found["step"] <= step and "evaluation" in found]
    named = (folder.path / SETTINGS).is_file()
    tokens = {"special_tokens": {"eos_token_id": Tokenizer.load(folder.tokenizer).end_id}} if named else {}
    return tokens | {
        "steps": step,
        "tokens": step * asked["batch_size"] * asked["sequence_length"],
        "data": [_name(source) for source in asked["data"]["sources"]],
        "balance_losses": asked.get("balance", {}).get("losses"),
        "evaluation": evaluated[-1]["evaluation"] if evaluated else None,
        "started_with": started,
    }


def _name(source: str) -> str:
    """Of text: where it lies on the machine that trained is nobody's business."""
    return source if source.startswith("hf:") else Path(source).name
