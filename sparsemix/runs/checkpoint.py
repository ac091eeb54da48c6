"""Checkpoints: named tensors as safetensors and values as JSON, complete or absent, checked when read."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sparsemix.files import PARTIAL, new_folder, sync
from sparsemix.runs import versions
from sparsemix.runs.errors import RunError, writing
from sparsemix.runs.versions import VersionError, migrated
from sparsemix.tensors import Derived, Recipe, TensorSource, open_file

STATE = "state.json"
PREFIX = "step-"


class Checkpoint(NamedTuple):
    """What a checkpoint holds."""

    tensors: dict[str, dict[str, Tensor]]
    """File name without suffix -> name -> tensor."""
    values: dict[str, Any]
    """JSON."""


class Checkpoints:
    """The checkpoints of a run: a folder `step-00000100` for each step that has one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, step: int) -> Path:
        """Where that of a step is, or would be."""
        return self.folder / f"{PREFIX}{step:08}"

    def steps(self) -> list[int]:
        """The steps that have one, in order."""
        numbers = [path.name.removeprefix(PREFIX) for path in self.folder.glob(f"{PREFIX}*")]
        return sorted(int(number) for number in numbers if number.isdecimal())

    def latest(self) -> int | None:
        """The last such step."""
        return max(self.steps(), default=None)

    def save(self, step: int, checkpoint: Checkpoint) -> Path:
        """Write one; it is there when this returns, and not at all if anything fails.

        A tensor that has several names (tied weights) is written once.

        Raises:
            RunError: the disk is full or the like; all other checkpoints are as they were.
        """
        path = self.path(step)
        self.folder.mkdir(parents=True, exist_ok=True)
        with writing(path), new_folder(path) as partial:
            files = {name: _write(partial, name, found) for name, found in checkpoint.tensors.items()}
            state = {"version": versions.FORMAT_VERSION, "step": step, "files": files, "values": checkpoint.values}
            (partial / STATE).write_text(json.dumps(state, indent=2) + "\n")
        return path

    def load(self, step: int, files: Collection[str] | None = None) -> Checkpoint:
        """Read one, after comparing its files with the checksums taken when they were written.

        Args:
            step: which.
            files: which tensors, by the names they were saved under; None: all.

        Raises:
            RunError: it is missing, damaged or of a newer version; names the file and the checkpoint before it.
        """
        path = self.path(step)
        with self._reading(step):
            state = _state(path)
            wanted = state["files"] if files is None else files
            tensors = {name: _read(path, name, state["files"][name]) for name in wanted}
            return Checkpoint(tensors, state["values"])

    def open(self, step: int, name: str) -> TensorSource:
        """The tensors of one file, to be read one at a time; its checksum is compared now.

        Raises:
            RunError: it is missing, damaged or of a newer version.
        """
        path = self.path(step)
        with self._reading(step):
            description = _state(path)["files"][name]
            source, same_as = open_file(_intact(path, name, description)), description["same_as"]
            recipes = {key: Recipe((key,), _alone) for key in source.specs}
            return Derived(source, recipes | {key: Recipe((owner,), _alone) for key, owner in same_as.items()})

    def keep_last(self, count: int) -> None:
        """Remove all but the last `count`, and what was left behind by processes that were killed."""
        for step in self.steps()[:-count]:
            path = self.path(step)
            path.replace(path.with_name(path.name + PARTIAL))  # half removed it must not look like one
        for leftover in self.folder.glob(f"{PREFIX}*{PARTIAL}"):
            shutil.rmtree(leftover, ignore_errors=True)
        sync(self.folder)

    @contextmanager
    def _reading(self, step: int) -> Iterator[None]:
        try:
            yield
        except VersionError:
            raise
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            reason = str(error) if isinstance(error, _DamagedError) else f"{STATE} with {error!r}"
            path = self.path(step)
            raise RunError(f"{path}: must be a whole checkpoint, got {reason}; {self._remedy(step)}") from None

    def _remedy(self, step: int) -> str:
        earlier = [other for other in self.steps() if other < step]
        if not earlier:
            return "there is no earlier one, start the run again"
        return f"remove that folder to resume from step {earlier[-1]}"


class _DamagedError(ValueError):
    """A file of a checkpoint is not what was written."""


def _write(folder: Path, name: str, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Write one file of tensors, and describe it."""
    first: dict[tuple[Any, ...], str] = {}
    same_as: dict[str, str] = {}
    for key, tensor in tensors.items():
        place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        owner = first.setdefault(place, key) if tensor.numel() else key
        if owner != key:
            same_as[key] = owner
    path = folder / _file_name(name)
    # clone: safetensors refuses views that overlap and are not the same; whole tensors are not copied
    unique = {key: _whole(tensor) for key, tensor in tensors.items() if key not in same_as}
    save_file(unique, path)
    return {"sha256": _sha256(path), "same_as": same_as}


def _whole(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu().contiguous()
    whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if whole else tensor.clone()


def _state(folder: Path) -> dict[str, Any]:
    state = json.loads((folder / STATE).read_text())
    return migrated("state", state, state["version"], str(folder))


def _read(folder: Path, name: str, description: Mapping[str, Any]) -> dict[str, Tensor]:
    tensors = load_file(_intact(folder, name, description))
    return tensors | {key: tensors[owner] for key, owner in description["same_as"].items()}


def _intact(folder: Path, name: str, description: Mapping[str, Any]) -> Path:
    """The file of this name, which holds what was written."""
    path = folder / _file_name(name)
    if not path.is_file():
        raise _DamagedError(f"no {path.name}")
    if _sha256(path) != description["sha256"]:
        raise _DamagedError(f"{path.name} with other contents than were written")
    return path


def _alone(tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0]


def _file_name(name: str) -> str:
    return f"{name}.safetensors"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
