"""The header of a safetensors file: what tensors it holds and where their bytes lie, checked before any is believed."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch

from sparsemix.checks import check
from sparsemix.tensors.source import Spec

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""The format's names of dtypes, of those that have one number to a whole number of bytes."""
NAMES = {dtype: name for name, dtype in DTYPES.items()}
METADATA = "__metadata__"
LENGTH = struct.Struct("<Q")
MOST = 100_000_000
"""The longest header that the format allows."""
BROKEN = "copy the file again"


class Place(NamedTuple):
    """Where a tensor lies."""

    path: Path
    offset: int
    """Of its first byte in the file."""
    spec: Spec


def unique_json(text: str | bytes, source: str) -> dict[str, Any]:
    """A JSON object in which no key comes twice, where JSON itself would let the last one win.

    Raises:
        ValueError: it is not.
    """

    def pairs(found: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        for key, value in found:
            check(key not in seen, source, "must name each thing once", f"{key!r} twice", "remove one")
            seen[key] = value
        return seen

    try:
        document = json.loads(text, object_pairs_hook=pairs)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{source}: must be JSON, got {error}; {BROKEN}") from None
    check(isinstance(document, dict), source, "must be a JSON object", type(document).__name__, BROKEN)
    return document


def read_header(path: Path) -> dict[str, Place]:
    """The tensors of a file, in the order in which they lie there.

    Raises:
        ValueError: no such file, or it is damaged: cut short, not a header, an unknown dtype, bytes that do not go with
            the shape, overlaps or gaps.
    """
    check(path.is_file(), str(path), "must be a file", "none", "fetch the missing shard")
    size = path.stat().st_size
    with path.open("rb") as file:
        text = _header_text(file, size, path)
    entries = unique_json(text, str(path))
    entries.pop(METADATA, None)
    begin = LENGTH.size + len(text)
    places = {name: _place(path, begin, name, entry) for name, entry in entries.items()}
    ordered = dict(sorted(places.items(), key=lambda item: (item[1].offset, item[1].spec.nbytes)))
    _check_bytes(ordered, begin, size, path)
    return ordered


def header_bytes(specs: Mapping[str, Spec]) -> bytes:
    """The header of a file in which these tensors lie one behind the other."""
    entries: dict[str, Any] = {METADATA: {"format": "pt"}}  # transformers refuses files that do not say so
    offset = 0
    for name, spec in specs.items():
        check(spec.dtype in NAMES, name, "must have a dtype that safetensors know", spec.dtype, "cast it")
        end = offset + spec.nbytes
        entries[name] = {"dtype": NAMES[spec.dtype], "shape": list(spec.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # so that the tensors are aligned
    return LENGTH.pack(len(text)) + text


def _header_text(file: BinaryIO, size: int, path: Path) -> bytes:
    rule = "must begin with the length of its header"
    check(size >= LENGTH.size, str(path), rule, f"{size} bytes", BROKEN)
    (length,) = LENGTH.unpack(file.read(LENGTH.size))
    fits = length <= min(MOST, size - LENGTH.size)
    check(fits, str(path), "must hold its whole header", f"{size} bytes, {length} of them announced", BROKEN)
    return file.read(length)


def _place(path: Path, begin: int, name: str, entry: Any) -> Place:
    where = f"{path}: {name}"
    rule = "must have dtype, shape and data_offsets"
    check(isinstance(entry, dict) and entry.keys() == {"dtype", "shape", "data_offsets"}, where, rule, entry, BROKEN)
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    known = isinstance(dtype, str) and dtype in DTYPES
    check(known, where, f"dtype must be one of {', '.join(DTYPES)}", dtype, "convert the model to one of them")
    check(_sizes(shape), where, "shape must be sizes", shape, BROKEN)
    check(_sizes(offsets) and len(offsets) == 2, where, "data_offsets must be two places", offsets, BROKEN)
    spec = Spec(tuple(shape), DTYPES[dtype])
    rule = f"must have the {spec.nbytes} bytes of {dtype} {list(spec.shape)}"
    check(offsets[1] - offsets[0] == spec.nbytes, where, rule, offsets[1] - offsets[0], BROKEN)
    return Place(path, begin + offsets[0], spec)


def _sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(size) is int and size >= 0 for size in value)


def _check_bytes(places: Mapping[str, Place], begin: int, size: int, path: Path) -> None:
    """Every byte of the file belongs to one tensor."""
    end = begin
    for name, place in places.items():
        rule = "must begin where the tensor before it ends"
        check(place.offset == end, f"{path}: {name}", f"{rule}, at byte {end}", place.offset, BROKEN)
        end += place.spec.nbytes
        check(end <= size, f"{path}: {name}", f"must end by the end of the file, byte {size}", end, BROKEN)
    check(end == size, str(path), f"must end with its last tensor, at byte {end}", size, BROKEN)
