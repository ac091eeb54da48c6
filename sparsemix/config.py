"""Configs: frozen dataclasses that pydantic checks, that go to JSON and back, and whose `build()` makes a module."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, TypeVar, cast, dataclass_transform

import pydantic

C = TypeVar("C")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def config(cls: type[C]) -> type[C]:
    """Make `cls` a frozen, keyword-only dataclass that refuses unknown keys and wrong types.

    A class that is one of several choices carries `type: Literal["tag"] = "tag"`; JSON then says which it is.
    """
    rules = pydantic.ConfigDict(
        extra="forbid",
        strict=True,  # "2" is no number, and yes is no bool
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )
    checked = pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=rules)(cls)
    _complain_in_one_line(checked)
    return cast(type[C], checked)


def complete(cls: type) -> None:
    """Look up names in the annotations of a config that were defined after it, for configs that contain each other."""
    pydantic.dataclasses.rebuild_dataclass(cast(Any, cls))
    _complain_in_one_line(cls)


def _complain_in_one_line(cls: Any) -> None:
    validate = cls.__init__

    @functools.wraps(validate)
    def init(self: Any, **fields: Any) -> None:
        try:
            validate(self, **fields)
        except pydantic.ValidationError as error:
            raise ValueError(one_line(error, cls.__name__)) from None

    cls.__init__ = init


def to_json(value: Any) -> str:
    """The config as indented JSON, defaults included, so that a file says all there is to say."""
    return pydantic.TypeAdapter(type(value)).dump_json(value, indent=2).decode() + "\n"


def from_json(kind: type[C], text: str, source: str = "config") -> C:
    """The config that `to_json` wrote; equal to the original.

    Raises:
        ValueError: not JSON, an unknown key, a wrong type or a value out of range, in one line.
    """
    try:
        return pydantic.TypeAdapter(kind).validate_json(text)
    except pydantic.ValidationError as error:
        raise ValueError(one_line(error, source)) from None


def read_json(kind: type[C], path: Path) -> C:
    """`from_json` of a file.

    Raises:
        ValueError: no such file, or its contents are refused.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: must be a readable config file, got {error}; check the path") from None
    return from_json(kind, text, str(path))


def one_line(error: pydantic.ValidationError, source: str) -> str:
    """The first complaint of pydantic in our one-line form, and how many more there are."""
    first = error.errors()[0]
    where = ": ".join([source, ".".join(str(part) for part in first["loc"])]).removesuffix(": ")
    rule, seen = first["msg"].removeprefix("Value error, "), repr(first["input"])
    if first["type"] == "json_invalid":
        text = f"must be JSON, got {first.get('ctx', {}).get('error')}; mend the file"
    elif first["type"] == "value_error":  # our own sentence already names the value and the remedy
        text = rule
    elif first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        text = f"unknown key, got {seen}; remove it or correct its name"
    elif first["type"] == "missing":
        text = "required, got nothing; give it a value"
    else:
        text = f"{rule}, got {seen}; correct the value"
    more = error.error_count() - 1
    line = " ".join(f"{where}: {text}".split())  # a key or a value may itself hold line breaks
    return line + (f" (and {more} more)" if more else "")
