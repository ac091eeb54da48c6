"""From the name of a source to a stream of its documents."""

from __future__ import annotations

from collections.abc import Iterator

from sparsemix.checks import check
from sparsemix.data.builtin import read_builtin
from sparsemix.data.document import Document
from sparsemix.data.sources import (
    check_path,
    read_folder,
    read_hugging_face,
    read_jsonl,
    read_parquet,
    read_text_file,
)

__all__ = ["Document", "read_documents"]


def read_documents(source: str) -> Iterator[Document]:
    """The documents of a source, always in the same order, never more than a few in memory.

    Args:
        source: `builtin` (the standard library of the running interpreter), `hf:NAME[:CONFIG][@SPLIT]`, a
            `.jsonl` or `.parquet` file (`text`, or `prompt` and `completion`; `domain` if there is one),
            any other file as text, or a folder of such files.

    Raises:
        ValueError: no such source; and while iterating: nothing in it, or a record that is malformed.
        ImportError: a source that needs `sparsemix[data]`.
    """
    return _not_empty(_open(source), source)


def _open(source: str) -> Iterator[Document]:
    if source == "builtin":
        return read_builtin()
    if source.startswith("hf:"):
        return read_hugging_face(source.removeprefix("hf:"))
    path = check_path(source)
    if path.is_dir():
        return read_folder(path)
    if path.suffix == ".jsonl":
        return read_jsonl(path, path.stem)
    if path.suffix == ".parquet":
        return read_parquet(path, path.stem)
    return read_text_file(path)


def _not_empty(documents: Iterator[Document], source: str) -> Iterator[Document]:
    """The documents that have any text; an error at the end if there were none."""
    count = 0
    for document in documents:
        if document.text or document.prompt:
            count += 1
            yield document
    check(count > 0, "data", "must hold text", f"none in {source!r}", "name a file or folder with text in it")
