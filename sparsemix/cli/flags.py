"""Arguments become configs by way of tyro; what it refuses is said in our one-line form."""

from __future__ import annotations

import dataclasses
import io
import os
import re
import typing
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from typing import Any, TypeVar

import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

C = TypeVar("C")

HELP = {"-h", "--help"}
FORMS = (
    (r"Unrecognized options: (?P<name>\S+?)(?P<seen>(, .*?)?)( Perhaps you meant: (?P<near>--\S+).*)?$", "unknown flag"),
    (r"invalid choice '(?P<seen>.*)' for argument '(?P<name>.+?)'\. Expected one of \((?P<choices>.*?),?\)\.", "choice"),
)


class _Refused(Exception):
    """A config refuses its values; tyro, which draws a box around every ValueError, lets this one pass."""


def parse(kind: type[C], args: Sequence[str], *, verb: str, default: C | None = None) -> C:
    """The value of `kind` that the arguments describe; flags that are not given are as in `default`.

    Raises:
        ValueError: an unknown flag, a value of the wrong type or out of range, in one line.
        SystemExit: help was asked for, and given.
    """
    raise NotImplementedError
