"""A path becomes a stored model: a run, a folder of our own format, or one of Hugging Face's of a family we know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sparsemix.checks import check
from sparsemix.config import from_json
from sparsemix.interop.agree import check_tensors
from sparsemix.interop.decoders import decoder_specs
from sparsemix.interop.families import open_family
from sparsemix.interop.own import CONFIG, MODEL_TYPE, open_own
from sparsemix.interop.stored import StoredModel
from sparsemix.models import DecoderConfig
from sparsemix.runs import RunError, RunFolder, read_metrics
from sparsemix.runs.folder import RUN
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
    if (path / RUN).is_file():
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
    step = folder.checkpoints.latest() if step is None else step
    if step is None:
        raise RunError(f"run: must have a checkpoint, got {path} without; train it longer or lower checkpoint_every")
    asked = folder.asked()
    config = from_json(DecoderConfig, json.dumps(asked.get(MODEL)), f"{path / CONFIG}: {MODEL}")
    tensors = folder.checkpoints.open(step, MODEL)
    check_tensors(tensors.specs, decoder_specs(config), str(folder.checkpoints.path(step)))
    files = (folder.tokenizer,) if folder.tokenizer.is_file() else ()
    return StoredModel(config, tensors, MODEL_TYPE, files, _facts(folder, asked, step))


def _facts(folder: RunFolder, asked: dict[str, Any], step: int) -> dict[str, Any]:
    """What the run was, and its last evaluation by this step."""
    started = {name: value for name, value in folder.facts().items() if name != "init"}  # a path of this machine
    evaluated = [found for found in read_metrics(folder.metrics) if found["step"] <= step and "evaluation" in found]
    return {
        "steps": step,
        "tokens": step * asked["batch_size"] * asked["sequence_length"],
        "data": asked["data"]["sources"],
        "evaluation": evaluated[-1]["evaluation"] if evaluated else None,
        "started_with": started,
    }
