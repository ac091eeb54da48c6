"""Files and folders that are wholly there or not at all: written under another name, synced, renamed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Put `text` into `path`; whatever happens on the way, `path` is the old file or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable; only POSIX lets a folder be opened for that."""
    if os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def complete_or_nothing(folder: Path) -> Iterator[Path]:
    """A temporary folder that becomes `folder` when the block ends, or vanishes if the block raises.

    What is written into it must be synced. It is named `folder` + ".tmp"; one left by a killed process is
    removed.
    """
    temporary = folder.with_name(folder.name + ".tmp")
    missing = [parent for parent in temporary.parents if not parent.exists()]
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        with suppress(
            OSError
        ):  # a failure leaves no empty folders; one that someone else has used since stays
            for parent in missing:
                parent.rmdir()
        raise
    sync_folder(folder.parent)
