"""What the annotation of a config's field says of the configs that may be there."""

from __future__ import annotations

import typing
from typing import Any

from pydantic.dataclasses import is_pydantic_dataclass


def hints_of(kind: type) -> dict[str, Any]:
    """Name of each field of a config -> its annotation; nothing for what is no config."""
    return typing.get_type_hints(kind, include_extras=True) if is_pydantic_dataclass(kind) else {}


def configs_in(hint: Any) -> list[Any]:
    """Every config class that the annotation mentions."""
    if is_pydantic_dataclass(hint):
        return [hint]
    return [found for inner in typing.get_args(hint) for found in configs_in(inner)]


def is_list(hint: Any) -> bool:
    """Whether the field is a tuple, or perhaps one."""
    return any(typing.get_origin(part) is tuple for part in (hint, *typing.get_args(hint)))


def is_part(hint: Any) -> bool:
    """Whether the field is a config, or perhaps one."""
    return bool(configs_in(hint)) and not is_list(hint)


def is_optional(hint: Any) -> bool:
    """Whether the field may be None."""
    return type(None) in typing.get_args(hint)


def required(kind: Any) -> list[str]:
    """The fields of a config class that have no default; nothing for what is no config."""
    return [name for name, field in getattr(kind, "__pydantic_fields__", {}).items() if field.is_required()]


def tag(kind: Any) -> str | None:
    """What a config class of a union calls itself; None for one of no union."""
    field = kind.__pydantic_fields__.get("type")
    return None if field is None else field.default
