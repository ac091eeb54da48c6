"""What a run may begin with, or be asked about: another run, or a model in a folder of any format we read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sparsemix.interop import StoredModel, last_step, open_model, open_run
from sparsemix.runs import RunFolder, is_run
from sparsemix.train.config import TrainConfig


def config_of(path: Path) -> TrainConfig:
    """That of the run, or the default one around the model that is in a folder.

    Raises:
        ValueError: there is neither, or what there is is damaged.
    """
    if is_run(path):
        return RunFolder.open(path).config(TrainConfig)
    return config_around(open_model(path))


def config_around(model: StoredModel) -> TrainConfig:
    """The default config, with this model."""
    length = min(TrainConfig().sequence_length, model.config.context)
    return TrainConfig(model=model.config, sequence_length=length)


def source_of(path: Path) -> dict[str, Any]:
    """What run.json says of where weights come from: a run and its last step, or a model.

    Raises:
        ValueError: the run has no checkpoint yet.
    """
    if is_run(path):
        return {"run": str(path.resolve()), "step": last_step(RunFolder.open(path))}
    return {"model": str(path.resolve())}


def stored(source: dict[str, Any]) -> StoredModel:
    """The model that `source_of` describes.

    Raises:
        ValueError: it is no longer there, or is damaged.
    """
    if "run" in source:
        return open_run(Path(source["run"]), source["step"])
    return open_model(Path(source["model"]))
