"""A trainer's state to and from the checkpoints of a run, and a trained model out of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch

from sparsemix.data import Tokenizer
from sparsemix.interop import StoredModel, build, open_model, open_run, tokenizer_of
from sparsemix.models import Decoder
from sparsemix.runs import Checkpoint, RunFolder, is_run
from sparsemix.train.config import TrainConfig
from sparsemix.train.origin import config_around
from sparsemix.train.trainer import Trainer, TrainerState

MODEL, OPTIMIZER = "model", "optimizer"


def save_checkpoint(trainer: Trainer, folder: RunFolder, values: dict[str, Any]) -> Path:
    """Write the trainer's state, and JSON `values` beside it.

    Raises:
        RunError: the disk is full or the like.
    """
    state = trainer.state()
    tensors = {MODEL: state.model, OPTIMIZER: state.optimizer}
    checkpoint = Checkpoint(tensors, {"trainer": state.values, "loop": values})
    return folder.checkpoints.save(trainer.steps_done, checkpoint)


def load_checkpoint(trainer: Trainer, folder: RunFolder, step: int) -> dict[str, Any]:
    """Put the trainer where it was after this step; the values saved beside it.

    Raises:
        RunError: the checkpoint is missing or damaged.
    """
    found = folder.checkpoints.load(step)
    trainer.load_state(TrainerState(found.tensors[MODEL], found.tensors[OPTIMIZER], found.values["trainer"]))
    return found.values["loop"]


class Trained(NamedTuple):
    """A model and what comes with it: what a run has come to, or a model from elsewhere."""

    config: TrainConfig
    """Of the run, or the default one around the model."""
    model: Decoder
    """On the CPU, in float32 and in evaluation mode."""
    tokenizer: Tokenizer
    step: int | None
    """Steps it was trained for, where that is known."""


def load_run(path: Path, step: int | None = None) -> Trained:
    """The model and the tokenizer of the run in a folder, after `step` steps or at the last checkpoint.

    Raises:
        ValueError: it is no run, has no checkpoint yet, or the checkpoint is damaged.
    """
    return _loaded(RunFolder.open(path).config(TrainConfig), open_run(path, step))


def load_trained(path: Path) -> Trained:
    """The model and the tokenizer of a run at its last checkpoint, of our own format or of a Hugging Face folder.

    Raises:
        ValueError: it is none of these, or is damaged, or has no tokenizer that we can use.
    """
    if is_run(path):
        return load_run(path)
    model = open_model(path)
    return _loaded(config_around(model), model)


def _loaded(config: TrainConfig, model: StoredModel) -> Trained:
    tokenizer = tokenizer_of(model)
    return Trained(config, build(model, dtype=torch.float32).eval(), tokenizer, model.facts.get("steps"))
