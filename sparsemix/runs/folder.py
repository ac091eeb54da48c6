"""The folder of a run: its config, what it ran on, its tokenizer, data, metrics and checkpoints."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, TypeVar

from sparsemix.checks import check
from sparsemix.config import from_json, to_json
from sparsemix.files import PARTIAL, remove_empty, write_text
from sparsemix.runs import versions
from sparsemix.runs.checkpoint import Checkpoints
from sparsemix.runs.errors import RunError, writing
from sparsemix.runs.versions import Kind, migrated

C = TypeVar("C")

RUN, CONFIG = "run.json", "config.json"


def is_run(path: Path) -> bool:
    """Whether a run is in this folder."""
    return (path / RUN).is_file()


class RunFolder:
    """Where the parts of a run are.

    ::

        config.json       what was asked for
        run.json          format version, versions and device it was started with
        tokenizer.json    and tokenizer_config.json, where the end of a document has another name than ours
        data/             token stores
        metrics.jsonl     one object a step
        tensorboard/
        checkpoints/step-00000100/{model.safetensors, optimizer.safetensors, state.json}
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tokenizer = path / "tokenizer.json"
        self.data = path / "data"
        self.metrics = path / "metrics.jsonl"
        self.tensorboard = path / "tensorboard"
        self.checkpoints = Checkpoints(path / "checkpoints")
        self._made: list[Path] = []

    @classmethod
    def create(cls, path: Path, config: Any, facts: dict[str, Any]) -> RunFolder:
        """A new run in a folder that does not exist or is empty.

        Args:
            path: the folder.
            config: goes to config.json.
            facts: go to run.json, beside the format version.

        Raises:
            RunError: there is a run already, or something else, or it cannot be written.
        """
        text = to_json(config)
        if (path / RUN).exists():
            raise RunError(f"out: must be a new folder, got the run in {path}; add --resume or choose another")
        if path.exists() and not _is_free(path, text):
            raise RunError(f"out: must be a new or an empty folder, got {path} with other things; choose another")
        folder = cls(path)
        folder._made = [new for new in (path, *path.parents) if not new.exists()]
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
            write_text(path / CONFIG, text)
            document = {"version": versions.FORMAT_VERSION, **facts}
            write_text(path / RUN, json.dumps(document, indent=2) + "\n")  # last: it makes the folder a run
        return folder

    def discard(self) -> None:
        """Remove a run that never began, and the folders that were made for it."""
        for entry in self.path.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        remove_empty(self._made)

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """A run that is there.

        Raises:
            RunError: it is not.
        """
        if not ((path / RUN).is_file() and (path / CONFIG).is_file()):
            raise RunError(f"run: must be the folder of a run, got {path} without {RUN} and {CONFIG}; check the path")
        return cls(path)

    def config(self, kind: type[C]) -> C:
        """What was asked for, as a config of this kind.

        Raises:
            ValueError: config.json is damaged, or of a newer version.
        """
        return from_json(kind, json.dumps(self.asked()), str(self.path / CONFIG))

    def asked(self) -> dict[str, Any]:
        """What was asked for, as JSON: for those who know a part of it only.

        Raises:
            ValueError: config.json is damaged, or of a newer version.
        """
        return self._read("config", CONFIG)

    def facts(self) -> dict[str, Any]:
        """What run.json says.

        Raises:
            ValueError: it is damaged, or of a newer version.
        """
        return self._read("run", RUN)

    def _read(self, kind: Kind, name: str) -> dict[str, Any]:
        """A JSON document; run.json says of which version both are."""
        version = _load(self.path / RUN).get("version")
        return migrated(kind, _load(self.path / name), version, str(self.path / RUN))


def _is_free(path: Path, config: str) -> bool:
    """Whether nothing is lost if a run with this config is begun here: at most a start that was cut short is."""
    return path.is_dir() and all(
        entry.name.endswith(PARTIAL) or (entry.name == CONFIG and entry.read_text() == config)
        for entry in path.iterdir()
    )


def _load(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: must be JSON, got {error}; restore the file") from None
    check(isinstance(document, dict), str(path), "must be a JSON object", type(document).__name__)
    return document
