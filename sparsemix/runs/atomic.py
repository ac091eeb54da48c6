"""Files and folders that are either wholly there or not there: written under another name, synced, renamed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

PARTIAL = ".partial"
"""How the names of files and folders end that are not complete; nothing reads them."""


class RunError(ValueError):
    """A run's files cannot be written, or are not what they should be; one line says which and what to do."""


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill; when the block ends it appears at `path` with its files durable, or not at all.

    `path` must not exist.
    """
    partial = path.with_name(path.name + PARTIAL)
    with writing(path, partial):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        for file in partial.rglob("*"):
            sync(file)
        sync(partial)
        partial.replace(path)
        sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Put `text` into `path`; whatever happens on the way, `path` is the old file or the new one."""
    partial = path.with_name(path.name + PARTIAL)
    with writing(path, partial):
        partial.write_text(text, encoding="utf-8")
        sync(partial)
        partial.replace(path)
        sync(path.parent)


@contextmanager
def writing(path: Path, partial: Path | None = None) -> Iterator[None]:
    """Turn failures to write into one line, and leave no `partial` behind.

    Raises:
        RunError: the disk is full or the like.
    """
    try:
        yield
    except BaseException as error:
        if partial is not None:
            _remove(partial)
        if isinstance(error, (OSError, SafetensorError)):
            raise RunError(f"{path}: could not be written, got {_reason(error)}; free space and resume") from error
        raise


def sync(path: Path) -> None:
    """Make a file's contents, or the names in a folder, durable; only POSIX lets a folder be opened for that."""
    if os.name != "posix" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).partition("\n")[0]
