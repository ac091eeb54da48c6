"""Arguments become configs by way of tyro; what it refuses is said in our one-line form."""

from __future__ import annotations

import io
import os
import re
import typing
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from typing import Any, TypeVar

import tyro
from pydantic.dataclasses import is_pydantic_dataclass
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

C = TypeVar("C")

HELP = {"-h", "--help"}
COMPLAINTS = {
    r"Unrecognized options: (\S+?)(?:, .*?)?(?: Perhaps you meant: (--\S+).*)?$": r"\1: must be a known flag, got \1; \2",
    r"invalid choice '(.*?)' for argument '(.+?)'\. Expected one of \((.*?),?\)\.": r"\2: must be one of \3, got '\1'; ",
    r"Missing value for argument '(.+?)'\. Expected (\d+)": r"\1: needs \2 value, got none; ",
    r"Missing from [^:]+: (\S+)": r"\1: required, got nothing; ",
    r"Error parsing ([^:]+): (.*?'.*?') ": r"",
}


class _Refused(Exception):
    """A config refuses its values; tyro, which draws a box around every ValueError, lets this one pass."""


def parse(kind: type[C], args: Sequence[str], *, verb: str, default: C) -> C:
    """The value of `kind` that the arguments describe; what they do not name is as in `default`.

    Raises:
        ValueError: an unknown flag, or a value of the wrong type or out of range, in one line.
        SystemExit: help was asked for, and given.
    """
    printed = io.StringIO()
    try:
        with redirect_stderr(printed), _one_line_a_sentence(args):
            return tyro.cli(kind, args=args, prog=f"sparsemix {verb}", default=default, registry=_registry())
    except _Refused as error:
        raise ValueError(str(error)) from None
    except SystemExit as stop:
        if stop.code == 0:
            raise
        raise ValueError(printed.getvalue()) from None



def _registry() -> ConstructorRegistry:
    registry = ConstructorRegistry()
    registry.struct_rule(_config_rule)
    return registry


def _config_rule(info: StructTypeInfo) -> StructConstructorSpec | None:
    """How tyro sees our configs: flat flags for the classes in force, and none for `type` or for a part that is None.

    Another class of a union, or a part that is None, is chosen in a config file.
    """
    if not is_pydantic_dataclass(info.type):
        return None
    hints = typing.get_type_hints(info.type, include_extras=True)
    hidden, shown = {}, []
    for name, field in info.type.__pydantic_fields__.items():
        value = getattr(info.default, name)
        if name == "type" or (value is None and _mentions_config(hints[name])):
            hidden[name] = value
            continue
        kind = type(value) if is_pydantic_dataclass(type(value)) else hints[name]
        shown.append(StructFieldSpec(name=name, type=kind, default=value, helptext=field.description))

    def instantiate(**given: Any) -> Any:
        try:
            return info.type(**hidden, **given)
        except ValueError as error:
            raise _Refused(str(error)) from None

    return StructConstructorSpec(instantiate=instantiate, fields=tuple(shown))


def _mentions_config(hint: Any) -> bool:
    return is_pydantic_dataclass(hint) or any(map(_mentions_config, typing.get_args(hint)))


@contextmanager
def _one_line_a_sentence(args: Sequence[str]) -> Iterator[None]:
    """Keep tyro from wrapping what it complains, so that it can be read; its help is wrapped as ever."""
    before = os.environ.get("COLUMNS")
    if not HELP & set(args):
        os.environ["COLUMNS"] = "100000"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("COLUMNS", None)
        else:
            os.environ["COLUMNS"] = before
