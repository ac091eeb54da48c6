"""Configs: frozen dataclasses that pydantic checks, that go to JSON and back, and whose `build()` makes a module."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any, TypeVar, dataclass_transform

import pydantic

C = TypeVar("C")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def config(cls: type[C]) -> type[C]:
    """Make `cls` a frozen, keyword-only dataclass that refuses unknown keys and wrong types.

    A class that is one of several choices carries `type: Literal["tag"] = "tag"`; JSON then says which it is.
    """
    rules = pydantic.ConfigDict(extra="forbid", use_attribute_docstrings=True)
    checked = pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=rules)(cls)
    validate = checked.__init__

    @functools.wraps(validate)
    def init(self: Any, **fields: Any) -> None:
        try:
            validate(self, **fields)
        except pydantic.ValidationError as error:
            raise ValueError(one_line(error, cls.__name__)) from None

    checked.__init__ = init
    return checked


def to_json(value: Any) -> str:
    """The config as indented JSON, defaults included, so that a file says all there is to say."""
    return pydantic.TypeAdapter(type(value)).dump_json(value, indent=2).decode() + "\n"


def from_json(kind: type[C], text: str, source: str = "config") -> C:
    """The config that `to_json` wrote; equal to the original.

    Raises:
        ValueError: not JSON, an unknown key, a wrong type or a value out of range, in one line.
    """
    try:
        return pydantic.TypeAdapter(kind).validate_python(json.loads(text))
    except json.JSONDecodeError as error:
        raise ValueError(f"{source}: must be JSON, got {error}; mend the file") from None
    except pydantic.ValidationError as error:
        raise ValueError(one_line(error, source)) from None


def read_json(kind: type[C], path: Path) -> C:
    """`from_json` of a file.

    Raises:
        ValueError: no such file, or its contents are refused.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: must be a readable config file, got {error}; check the path") from None
    return from_json(kind, text, str(path))


def one_line(error: pydantic.ValidationError, source: str) -> str:
    """The first complaint of pydantic in our one-line form, and how many more there are."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    rule = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":  # our own sentence already names the value and the remedy
        text = rule if not where else f"{where}: {rule}"
    elif first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        text = f"{where}: unknown key, got {first['input']!r}; remove it or correct its name"
    else:
        text = f"{where}: {rule}, got {first['input']!r}; correct the value"
    more = error.error_count() - 1
    return f"{source}: {text}" + (f" (and {more} more)" if more else "")
