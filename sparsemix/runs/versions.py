"""The format version of a run's JSON, and how that of older versions becomes that of today."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from sparsemix.runs.errors import RunError

Kind = Literal["run", "config", "state"]
"""run.json, config.json, or a checkpoint's state.json."""
Migration = Callable[[Kind, dict[str, Any]], dict[str, Any]]
"""A document of one version -> the same of the next."""

FORMAT_VERSION = 1
MIGRATIONS: Mapping[int, Migration] = {}
"""Version -> what leads to the next one. A change of format raises FORMAT_VERSION and adds an entry here."""


class VersionError(RunError):
    """The format is of a newer sparsemix."""


def migrated(kind: Kind, document: dict[str, Any], version: Any, source: str) -> dict[str, Any]:
    """The document as this version of sparsemix would have written it.

    Raises:
        VersionError: `version` is newer than this sparsemix, or no version at all.
    """
    if not isinstance(version, int) or not 1 <= version <= FORMAT_VERSION:
        rule = f"format version must be in 1..{FORMAT_VERSION}"
        raise VersionError(f"{source}: {rule}, got {version!r}; update sparsemix")
    for number in range(version, FORMAT_VERSION):
        document = MIGRATIONS[number](kind, document)
    return document
