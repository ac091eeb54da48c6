"""Tensors in the safetensors files of a folder, each read when it is wanted."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from sparsemix.checks import check
from sparsemix.tensors.header import BROKEN, Place, read_header, unique_json

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


class Stored:
    """Tensors at places in files.

    They are read, not mapped: the pages of a mapped file count as the process's memory for as long as they stay.
    """

    def __init__(self, places: Mapping[str, Place]) -> None:
        self.places = places
        self.specs = {name: place.spec for name, place in places.items()}

    def read(self, name: str) -> Tensor:
        """The tensor, in memory of its own.

        Raises:
            ValueError: the file became shorter since it was opened, or cannot be read.
        """
        path, offset, spec = self.places[name]
        data = torch.empty(spec.nbytes, dtype=torch.uint8)
        try:
            with path.open("rb", buffering=0) as file:
                file.seek(offset)
                _fill(file, data.numpy().data, f"{path}: {name}")
        except OSError as error:  # told apart from those of whoever writes what is read here
            raise ValueError(f"{path}: {name}: must be readable, got {error.strerror}; {BROKEN}") from None
        return data.view(spec.dtype).view(spec.shape)


def open_folder(folder: Path) -> Stored:
    """The tensors of `model.safetensors`, or of the shards that `model.safetensors.index.json` names.

    Headers are read and compared with the index and with the sizes of the files; tensors are not read yet.

    Raises:
        ValueError: there is neither file; a shard is missing, damaged or cut short; a tensor is missing, is in no
            index, or is in two shards; the index names a file outside the folder.
    """
    single, index = folder / SINGLE, folder / INDEX
    rule = f"must hold {SINGLE} or {INDEX}"
    there = single.is_file() or index.is_file()
    check(there, str(folder), rule, _instead(folder), "save the model as safetensors")
    if not index.is_file():
        return Stored(read_header(single))
    weight_map = _weight_map(index)
    stale = single.is_file() and SINGLE not in weight_map.values()
    check(not stale, str(folder), f"must hold {SINGLE} or {INDEX}", "both", "remove the one that is not the model's")
    return Stored(_merged(folder, weight_map))


def open_file(path: Path) -> Stored:
    """The tensors of one file.

    Raises:
        ValueError: it is missing, damaged or cut short.
    """
    return Stored(read_header(path))


def _weight_map(index: Path) -> dict[str, str]:
    """Tensor -> shard, of the index."""
    weight_map = unique_json(index.read_bytes(), str(index)).get("weight_map")
    rule = "must have a weight_map of tensor names to file names"
    good = isinstance(weight_map, dict) and all(isinstance(name, str) for name in weight_map.values())
    check(good, str(index), rule, type(weight_map).__name__, BROKEN)
    assert isinstance(weight_map, dict)
    for tensor, name in weight_map.items():
        inside = name not in ("", ".", "..") and not set(name) & set("/\\\0:")
        check(inside, f"{index}: {tensor}", "must be in a file of the same folder", repr(name), "get the model anew")
    return weight_map


def _merged(folder: Path, weight_map: Mapping[str, str]) -> dict[str, Place]:
    places: dict[str, Place] = {}
    for shard in sorted(set(weight_map.values())):
        for name, place in read_header(folder / shard).items():
            check(name in weight_map, f"{place.path}: {name}", "must be in the index", "an extra tensor", BROKEN)
            owner = weight_map[name]
            check(owner == shard, f"{place.path}: {name}", f"must be in {owner} alone", "a duplicate", BROKEN)
            places[name] = place
    for name, shard in weight_map.items():
        check(name in places, f"{folder / shard}: {name}", "must be there, as the index says", "no such tensor", BROKEN)
    return places


def _fill(file: io.FileIO, buffer: memoryview, where: str) -> None:
    """Read until the buffer is full: one call gives at most 2 GiB."""
    filled = 0
    while filled < len(buffer):
        count = file.readinto(buffer[filled:])
        check(count > 0, where, f"must have {len(buffer)} bytes", filled, BROKEN)
        filled += count


def _instead(folder: Path) -> str:
    """What is in the folder that may be meant for the model."""
    check(folder.is_dir(), str(folder), "must be a folder", "no such folder", "check the path")
    found = [path.name for path in sorted(folder.iterdir()) if path.suffix in (".bin", ".pt", ".pth", ".safetensors")]
    return ", ".join(found[:3]) or "neither"
