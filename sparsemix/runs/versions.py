"""The format version of a run's JSON, and how that of older versions becomes that of today."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from sparsemix.runs.errors import RunError

Kind = Literal["run", "config", "state"]
"""run.json, config.json, or a checkpoint's state.json."""
Migration = Callable[[Kind, dict[str, Any]], dict[str, Any]]
"""A document of one version -> the same of the next."""


def kinds_of_attention(kind: Kind, document: dict[str, Any]) -> dict[str, Any]:
    """2: attention is one of several kinds, and YaRN one of several scalings of rotary frequencies."""
    model = document.get("model") if kind == "config" else None
    attention = model.get("attention") if isinstance(model, dict) else None
    if not isinstance(attention, dict):
        return document
    yarn = attention.get("yarn")
    others = {name: value for name, value in attention.items() if name != "yarn"}
    changed = {"type": "grouped", **others, "rope_scaling": None if yarn is None else {"type": "yarn", **yarn}}
    return document | {"model": {**document["model"], "attention": changed}}


FORMAT_VERSION = 2
MIGRATIONS: Mapping[int, Migration] = {1: kinds_of_attention}
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
