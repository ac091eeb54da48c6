"""Folders of safetensors: what was written is read again, by us and by others, and damage is named."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sparsemix.tensors import Held, open_folder, write_folder

INDEX = "model.safetensors.index.json"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
TENSORS = {
    "a": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)),
    "b": torch.arange(3).to(torch.bfloat16),
    "scalar": torch.tensor(2.5, dtype=torch.float64),
    "empty": torch.zeros(0, 4),
    "flags": torch.tensor([True, False]),
    "view": torch.arange(6.0).view(2, 3).T,
}


def written(folder: Path, tensors: dict[str, Tensor] = TENSORS, shard_bytes: int = 1000) -> Path:
    folder.mkdir()
    write_folder(Held(tensors), folder, max_shard_bytes=shard_bytes)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(("shard_bytes", "files"), [(1000, 1), (64, 2), (1, 6)])
def test_what_is_written_is_read_again(tmp_path: Path, shard_bytes: int, files: int) -> None:
    source = open_folder(written(tmp_path / "model", shard_bytes=shard_bytes))
    assert len(list((tmp_path / "model").glob("*.safetensors"))) == files
    assert set(source.specs) == set(TENSORS)
    for name, tensor in TENSORS.items():
        read = source.read(name)
        assert read.dtype == tensor.dtype == source.specs[name].dtype
        assert torch.equal(read, tensor)


def test_the_library_of_the_format_reads_it(tmp_path: Path) -> None:
    folder = written(tmp_path / "model", shard_bytes=64)
    index = json.loads((folder / INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in TENSORS.values())
    for name, tensor in TENSORS.items():
        assert torch.equal(load_file(folder / index["weight_map"][name])[name], tensor)


def test_what_the_library_of_the_format_writes_is_read(tmp_path: Path) -> None:
    save_file({name: tensor.contiguous() for name, tensor in TENSORS.items()}, tmp_path / "model.safetensors")
    source = open_folder(tmp_path)
    assert all(torch.equal(source.read(name), tensor) for name, tensor in TENSORS.items())


def test_the_same_tensors_make_the_same_bytes(tmp_path: Path) -> None:
    first, second = (contents(written(tmp_path / name, shard_bytes=64)) for name in ("first", "second"))
    assert first == second


def test_tensors_that_are_read_belong_to_the_reader(tmp_path: Path) -> None:
    source = open_folder(written(tmp_path / "model"))
    source.read("a").zero_()
    assert torch.equal(source.read("a"), TENSORS["a"])


def test_files_may_be_links_as_in_the_hubs_cache(tmp_path: Path) -> None:
    folder = written(tmp_path / "model", shard_bytes=64)
    (tmp_path / "blobs").mkdir()
    for shard in folder.glob("*.safetensors"):
        shard.symlink_to(shard.rename(tmp_path / "blobs" / shard.name))
    source = open_folder(folder)
    assert all(torch.equal(source.read(name), tensor) for name, tensor in TENSORS.items())


def edit_header(path: Path, change: Callable[[dict], None]) -> None:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    change(header)
    rewrite_header(path, json.dumps(header))


def rewrite_header(path: Path, text: str) -> None:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    path.write_bytes(struct.pack("<Q", len(text)) + text.encode() + data[8 + length :])


def edit_index(folder: Path, change: Callable[[dict], None]) -> None:
    index = json.loads((folder / INDEX).read_text())
    change(index)
    (folder / INDEX).write_text(json.dumps(index))


def cut(path: Path, count: int) -> None:
    path.write_bytes(path.read_bytes()[:count])


def moved_out(folder: Path) -> None:
    (folder / SECOND).rename(folder.parent / "outside.safetensors")
    edit_index(folder, lambda index: index["weight_map"].update(b="../outside.safetensors"))


def absolute(folder: Path) -> None:
    edit_index(folder, lambda index: index["weight_map"].update(b=str(folder / SECOND)))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated shard": (lambda f: cut(f / SECOND, -2), "second: b2: must end by the end of the file"),
    "truncated header": (lambda f: cut(f / FIRST, 20), "first: must hold its whole header"),
    "no header": (lambda f: cut(f / FIRST, 5), "first: must begin with the length of its header, got 5 bytes"),
    "header that is no JSON": (lambda f: rewrite_header(f / FIRST, "{a"), "first: must be JSON"),
    "bytes after the end": (lambda f: (f / FIRST).write_bytes((f / FIRST).read_bytes() + b"x"), "first: must end with"),
    "missing shard": (lambda f: (f / SECOND).unlink(), "second: must be a file, got none"),
    "missing tensor": (
        lambda f: edit_index(f, lambda index: index["weight_map"].update(c=SECOND)),
        "second: c: must be there, as the index says",
    ),
    "extra tensor": (
        lambda f: edit_index(f, lambda index: index["weight_map"].pop("b2")),
        "second: b2: must be in the index, got an extra tensor",
    ),
    "duplicate tensor": (
        lambda f: save_file({"a": torch.ones(2), "b": torch.ones(2), "b2": torch.ones(2)}, f / SECOND),
        "second: a: must be in first alone, got a duplicate",
    ),
    "duplicate in the header": (lambda f: rewrite_header(f / FIRST, '{"a": 1, "a": 2}'), "first: .*'a' twice"),
    "duplicate in the index": (
        lambda f: (f / INDEX).write_text(f'{{"weight_map": {{"a": "{FIRST}", "a": "{FIRST}"}}}}'),
        "index.json: must name each thing once, got 'a' twice",
    ),
    "wrong dtype": (lambda f: edit_header(f / FIRST, lambda h: h["a"].update(dtype="F16")), "a: must have the 8 bytes"),
    "unknown dtype": (lambda f: edit_header(f / FIRST, lambda h: h["a"].update(dtype="F4")), "a: dtype must be one of"),
    "wrong shape": (lambda f: edit_header(f / FIRST, lambda h: h["a"].update(shape=[3])), "a: must have the 12 bytes"),
    "negative shape": (lambda f: edit_header(f / FIRST, lambda h: h["a"].update(shape=[-2])), "a: shape must be sizes"),
    "overlap": (
        lambda f: edit_header(f / SECOND, lambda h: h["b2"].update(data_offsets=[4, 12])),
        "b2: must begin where the tensor before it ends",
    ),
    "path above the folder": (moved_out, "b: must be in a file of the same folder, got '../outside.safetensors'"),
    "absolute path": (absolute, "b: must be in a file of the same folder"),
    "index without a map": (lambda f: (f / INDEX).write_text("{}"), "index.json: must have a weight_map"),
    "index that is no JSON": (lambda f: (f / INDEX).write_text("{"), "index.json: must be JSON"),
    "two models in one folder": (
        lambda f: save_file({"a": torch.ones(2)}, f / "model.safetensors"),
        "must hold model.safetensors or model.safetensors.index.json, got both",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_refused_by_name(tmp_path: Path, damage: str) -> None:
    folder = written(tmp_path / "model", {"a": torch.ones(4), "b": torch.ones(2), "b2": torch.ones(2)}, shard_bytes=16)
    open_folder(folder)
    spoil, complaint = DAMAGE[damage]
    spoil(folder)
    pattern = complaint.replace("first", FIRST).replace("second", SECOND)
    with pytest.raises(ValueError, match=pattern) as caught:
        open_folder(folder)
    assert "\n" not in str(caught.value)


def test_a_file_cut_short_after_it_was_opened_is_refused(tmp_path: Path) -> None:
    last = "flags"
    source = open_folder(written(tmp_path / "model"))
    cut(tmp_path / "model" / "model.safetensors", -64)
    with pytest.raises(ValueError, match=f"{last}: must have"):
        source.read(last)


def test_a_file_removed_after_it_was_opened_is_named(tmp_path: Path) -> None:
    source = open_folder(written(tmp_path / "model"))
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model.safetensors: a: must be readable, got No such file or directory"):
        source.read("a")


def test_pickles_are_not_read(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"got pytorch_model.bin; save the model as safetensors"):
        open_folder(tmp_path)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be a folder"):
        open_folder(tmp_path / "nowhere")
