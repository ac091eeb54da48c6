"""Tensors into safetensors files, one at a time, in shards where they are many."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from sparsemix.tensors.folder import INDEX, SINGLE
from sparsemix.tensors.header import header_bytes
from sparsemix.tensors.source import Spec, TensorSource, spec_of

SHARD_BYTES = 5_000_000_000


def write_folder(source: TensorSource, folder: Path, *, max_shard_bytes: int = SHARD_BYTES) -> None:
    """Write all tensors into `folder`, which exists: one file, or shards of at most so many bytes and their index.

    No more than one tensor is in memory. The same tensors make the same bytes. Whoever wants all or nothing wraps it
    in `files.new_folder`.
    """
    shards = list(_shards(source.specs, max_shard_bytes))
    if len(shards) == 1:
        _write_file(source, shards[0], folder / SINGLE)
        return
    names = [f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards, strict=True):
        _write_file(source, shard, folder / name)
    weight_map = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
    total = sum(spec.nbytes for spec in source.specs.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _shards(specs: Mapping[str, Spec], most: int) -> list[dict[str, Spec]]:
    """The tensors in order, cut before what would be too much; a tensor larger than that has a shard of its own."""
    shards: list[dict[str, Spec]] = [{}]
    size = 0
    for name, spec in specs.items():
        if shards[-1] and size + spec.nbytes > most:
            shards.append({})
            size = 0
        shards[-1][name] = spec
        size += spec.nbytes
    return shards


def _write_file(source: TensorSource, specs: Mapping[str, Spec], path: Path) -> None:
    # The widest dtypes first: then each tensor is aligned, as readers that map the file want it.
    ordered = dict(sorted(specs.items(), key=lambda item: -item[1].dtype.itemsize))
    with path.open("wb") as file:
        file.write(header_bytes(ordered))
        for name, spec in ordered.items():
            file.write(_bytes(source.read(name), name, spec))


def _bytes(tensor: Tensor, name: str, spec: Spec) -> memoryview:
    assert spec_of(tensor) == spec, f"{name} is {spec_of(tensor)} where {spec} was announced"
    return tensor.contiguous().flatten().view(torch.uint8).numpy().data
