"""Files and folders that are wholly there or not at all: written under another name, synced, renamed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PARTIAL = ".partial"
"""How the names of files and folders end that are not complete; nothing reads them."""


def write_text(path: Path, text: str) -> None:
    """Put `text` into `path`; whatever happens on the way, `path` is the old file or the new one."""
    with new_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A file to fill; when the block ends it appears at `path`, durable, in place of what was there, or not at all."""
    partial = path.with_name(path.name + PARTIAL)
    try:
        yield partial
        sync(partial)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill; when the block ends it appears at `path` with its files durable, or not at all.

    `path` must not exist, or be an empty folder. What a killed process left half made is removed.
    """
    partial = path.with_name(path.name + PARTIAL)
    with new_parents(path):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            yield partial
            for file in partial.rglob("*"):
                sync(file)
            sync(partial)
            partial.replace(path)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    sync(path.parent)


@contextmanager
def new_parents(path: Path) -> Iterator[None]:
    """The folders that `path` is in are there inside the block; those that were made for it go again if it fails."""
    missing = [parent for parent in path.parents if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        remove_empty(missing)
        raise


def remove_empty(folders: list[Path]) -> None:
    """Remove folders that were made in vain, inner ones first; one that has something in it by now stays."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def sync(path: Path) -> None:
    """Make a file's contents, or the names in a folder, durable; only POSIX lets a folder be opened for that."""
    if os.name != "posix" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
