"""A trainer's state to and from the checkpoints of a run, and a trained model out of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from sparsemix.data import Tokenizer
from sparsemix.models import Decoder
from sparsemix.runs import Checkpoint, RunError, RunFolder
from sparsemix.train.config import TrainConfig
from sparsemix.train.trainer import Trainer, TrainerState, load_weights

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


def load_model(model: Decoder, folder: RunFolder, step: int) -> None:
    """Put a run's weights after this step into a model.

    Raises:
        ValueError: the checkpoint is missing or damaged, or the model has other shapes.
    """
    load_weights(model, folder.checkpoints.load(step, [MODEL]).tensors[MODEL])


class TrainedRun(NamedTuple):
    """What a run has come to."""

    config: TrainConfig
    model: Decoder
    """On the CPU, in evaluation mode."""
    tokenizer: Tokenizer
    step: int
    """Steps it was trained for."""


def load_run(path: Path, step: int | None = None) -> TrainedRun:
    """The model and the tokenizer of the run in a folder, after `step` steps or at the last checkpoint.

    Raises:
        ValueError: it is no run, has no checkpoint yet, or the checkpoint is damaged.
    """
    folder = RunFolder.open(path)
    step = folder.checkpoints.latest() if step is None else step
    if step is None:
        raise RunError(f"run: must have a checkpoint, got {path} without; train it longer or lower checkpoint_every")
    config = folder.config(TrainConfig)
    model = config.model.build(config.seed)
    load_model(model, folder, step)
    return TrainedRun(config, model.eval(), Tokenizer.load(folder.tokenizer), step)
