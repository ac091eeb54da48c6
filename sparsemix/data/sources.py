"""Streaming readers of documents: text, JSON lines, Parquet, folders of those, Hugging Face datasets."""

from __future__ import annotations

import codecs
import itertools
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sparsemix.checks import check, require
from sparsemix.data.document import Document, document_from_record

PIECE = 1 << 20  # characters: the longest document that a text file becomes, so that no file needs to fit in memory
NUM_PIECES = 128  # a lone text file is cut into about this many documents, so that some can be held out
SMALLEST_PIECE = 256
MOST_FOLDER_DOMAINS = 64


def read_text_file(path: Path) -> Iterator[Document]:
    """The file as about 128 consecutive documents cut at line ends; joined they are the file, to the byte."""
    size = min(max(path.stat().st_size // NUM_PIECES, SMALLEST_PIECE), PIECE)
    return _pieces(path, size, path.stem)


def read_jsonl(path: Path, domain: str) -> Iterator[Document]:
    """One document for each line that is not blank."""
    number = 1
    try:
        # utf-8-sig: some editors put a byte order mark, which is not JSON, in front.
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield document_from_record(_json(line, f"{path}:{number}"), domain, f"{path}:{number}")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: must be UTF-8, got {error.reason} after line {number}; convert it") from None


def read_parquet(path: Path, domain: str) -> Iterator[Document]:
    """One document a row, read a record batch at a time."""
    require("pyarrow", "to read Parquet files")
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as table:
            names = set(table.schema_arrow.names) & {"text", "prompt", "completion", "domain"}
            columns = sorted(names if names - {"domain"} else table.schema_arrow.names)
            batches = table.iter_batches(batch_size=256, columns=columns)
            records = itertools.chain.from_iterable(batch.to_pylist() for batch in batches)
            for row, record in enumerate(records, 1):
                yield document_from_record(record, domain, f"{path}: row {row}")
    except (ArrowException, OSError) as error:
        raise ValueError(f"{path}: must be a Parquet file, got {_first_line(error)}; write it again") from None


def read_folder(path: Path) -> Iterator[Document]:
    """Every text, JSON lines and Parquet file below `path`, in sorted order, hidden ones left out.

    A file's domain is its first folder below `path`; where there is none, or there are over 64, its suffix.
    """
    folders = {entry.name for entry in path.iterdir() if entry.is_dir()}
    left_out = 0
    for file in _walk(path):
        first = file.relative_to(path).parts[0]
        suffix = file.suffix.removeprefix(".").lower()
        in_folder = first in folders and len(folders) <= MOST_FOLDER_DOMAINS
        domain = first if in_folder else suffix or file.stem
        if suffix == "jsonl":
            yield from read_jsonl(file, domain)
        elif suffix == "parquet":
            yield from read_parquet(file, domain)
        elif _is_text(file):
            yield from _pieces(file, PIECE, domain)
        else:
            left_out += 1
    if left_out:
        logging.getLogger(__name__).warning("%s: left out %d files that are not UTF-8 text", path, left_out)


def read_hugging_face(name: str) -> Iterator[Document]:
    """A dataset of the hub or in a local folder, `NAME[:CONFIG][@SPLIT]` (split "train" unless given)."""
    datasets = require("datasets", f"to read hf:{name}")
    rest, _, split = name.partition("@")
    place, _, kind = rest.partition(":")
    try:
        if (Path(place) / "dataset_dict.json").is_file() or (Path(place) / "state.json").is_file():
            table = datasets.load_from_disk(place)
            table = table[split or "train"] if isinstance(table, dict) else table
        else:
            table = datasets.load_dataset(place, kind or None, split=split or "train", streaming=True)
    except (OSError, ValueError, KeyError) as error:
        seen = _first_line(error)
        raise ValueError(f"hf:{name}: must name a dataset and split, got {seen}; correct it") from None
    domain = kind or Path(place).name
    return (
        document_from_record(record, domain, f"hf:{name}: record {number}") for number, record in enumerate(table, 1)
    )


def _pieces(path: Path, size: int, domain: str) -> Iterator[Document]:
    try:
        with path.open(encoding="utf-8", newline="") as file:  # newline="": line ends stay as they are
            # A second `size` bounds the search for a line end: a file of one line must not fill the memory.
            while text := file.read(size) + file.readline(size):
                yield Document(text, domain)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: must be UTF-8 text, got {error.reason}; convert it") from None


def _walk(path: Path) -> Iterator[Path]:
    """Files below `path` in sorted order, whatever order the file system keeps."""
    for folder, subfolders, files in os.walk(path):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        paths = (Path(folder, name) for name in sorted(files) if not name.startswith("."))
        yield from (path for path in paths if path.is_file())  # no pipes, which would block, nor dead links


def _is_text(path: Path) -> bool:
    """Whether the whole file is UTF-8 without NUL: known before its first document is given out."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with path.open("rb") as file:
        try:
            while block := file.read(PIECE):
                if b"\0" in block:
                    return False
                decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return True


def _json(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{where}: must be JSON, got {error}; correct the line") from None


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def check_path(source: str) -> Path:
    """`source` as a path that is there."""
    path = Path(source)
    check(
        path.exists(),
        "data",
        "must be a file, a folder, hf:NAME or builtin",
        f"{source!r}, which does not exist",
        "check the path",
    )
    return path
