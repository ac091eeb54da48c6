"""The folder of a demo: the data, two runs that other commands can open, and the results."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

from sparsemix.checks import check
from sparsemix.runs import RunFolder
from sparsemix.train.config import TrainConfig
from sparsemix.train.facts import facts
from sparsemix.train.saving import save_checkpoint
from sparsemix.train.trainer import Trainer

OURS = {"data", "moe", "dense", "without", "summary.json", "curves.png"}


def open_folder(path: Path) -> Path:
    """A folder for a demo: new, empty, or that of an earlier demo, whose data are used again.

    Raises:
        ValueError: it has anything that no demo wrote; nothing is touched.
    """
    if path.exists():
        names = [entry.name for entry in path.iterdir()] if path.is_dir() else [path.name]
        strange = ", ".join(sorted(set(names) - OURS)[:3])
        check(not strange, "out", "must be a new folder or one of a demo", f"{path} with {strange}", "choose another")
    path.mkdir(parents=True, exist_ok=True)
    return path


def save_model(folder: Path, name: str, config: TrainConfig, trainer: Trainer) -> None:
    """A run as `sparsemix train` leaves it, for `generate`, `eval` and `info`; one of an earlier demo is replaced."""
    path = folder / name
    if path.exists():
        shutil.rmtree(path)
    config = replace(config, steps=trainer.steps_done)
    run = RunFolder.create(path, config, facts(trainer, config) | {"init": None})
    # Both runs have the same data: linked, not copied, where the file system can.
    shutil.copytree(folder / "data", run.data, copy_function=_link)
    shutil.copy2(run.data / "tokenizer.json", run.tokenizer)
    save_checkpoint(trainer, run, {})


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
