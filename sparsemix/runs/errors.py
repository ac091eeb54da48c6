"""What goes wrong with the files of a run, in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError


class RunError(ValueError):
    """A run's files cannot be written, or are not what they should be; one line says which and what to do."""


@contextmanager
def writing(path: Path, remedy: str = "free space and resume") -> Iterator[None]:
    """Turn failures to write into one line.

    Raises:
        RunError: the disk is full or the like.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path}: could not be written, got {_reason(error)}; {remedy}") from error


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).partition("\n")[0]
