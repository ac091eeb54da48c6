"""The folder of a demo: the data, the runs, which other commands can open, and the results."""

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

DATA = "data"
RUNS = {"moe", "dense", "without"}
RESULTS = {"summary.json", "curves.png"}


def open_folder(path: Path) -> Path:
    """A folder for a demo: new, empty, or that of an earlier demo, whose data are used again.

    Raises:
        ValueError: it has anything that no demo wrote; nothing is touched.
    """
    if path.exists():
        names = [entry.name for entry in path.iterdir()] if path.is_dir() else [path.name]
        strange = ", ".join(sorted(set(names) - RUNS - RESULTS - {DATA})[:3])
        check(not strange, "out", "must be a new folder or one of a demo", f"{path} with {strange}", "choose another")
    path.mkdir(parents=True, exist_ok=True)
    return path


def clear(folder: Path) -> None:
    """Remove what an earlier demo left, perhaps one of other models, but for its data."""
    for name in RUNS:
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in RESULTS:
        (folder / name).unlink(missing_ok=True)


def save_model(folder: Path, name: str, config: TrainConfig, trainer: Trainer) -> None:
    """A run as `sparsemix train` leaves it, for `generate`, `eval` and `info`."""
    config = replace(config, steps=trainer.steps_done)
    run = RunFolder.create(folder / name, config, facts(trainer, config) | {"init": None})
    # All runs have the same data: linked, not copied, where the file system can.
    shutil.copytree(folder / DATA, run.data, copy_function=_link)
    shutil.copy2(run.data / "tokenizer.json", run.tokenizer)
    save_checkpoint(trainer, run, {})


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
