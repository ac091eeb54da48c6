"""Arguments become configs by way of tyro; what it refuses is said in our one-line form."""

from __future__ import annotations

import inspect
import io
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from typing import Annotated, Any, TypeVar

import tyro
from pydantic.dataclasses import is_pydantic_dataclass
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

from sparsemix.cli.hints import configs_in, hints_of
from sparsemix.cli.weighted import flag_of, names, weighted_kinds

C = TypeVar("C")

Many = Annotated[tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction]
"""A flag with one or more values that may be given more than once; `flatten` makes one list of it."""
Switch = Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")]
"""A flag that is there or not."""
HELP = {"-h", "--help"}
UNREADABLE = "arguments: must be as --help says, got: {}"
COMPLAINTS = (
    (
        r"Unrecognized options: (\S+?)(?:,.*)?\nPerhaps you meant:\n(--\S+)",
        r"\1: must be a flag there is, got '\1'; did you mean \2?",
    ),
    (r"Unrecognized options: (\S+?)(?:,.*)?$", r"\1: must be a flag there is, got '\1'; see --help"),
    (r"Missing from .*:\n(\S+)", r"\1: must be given, got nothing; see --help"),
    (r"Missing value for argument '(.+)'", r"\1: must have a value, got none; see --help"),
    (
        r"invalid choice ('.*') for argument '(.+)'\. Expected one of \((.*?),?\)\.",
        r"\2: must be one of \3, got \1; choose one",
    ),
    (
        r"Error parsing (\S+): .*?('.*?'?)[\].]*\n(?:.*\n)*Argument helptext:\n\S+ (.*)",
        r"\1: must be \3, got \2; correct the value",
    ),
)
"""tyro's complaints, a row a line, and how we say them."""


class _ConfigError(Exception):
    """A config refuses its values. No ValueError, since tyro would draw a box around one."""


def shown_as(metavar: str) -> Any:
    """What help calls the value of a flag; it says no default, which the flag's own line is to tell."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="")


def flatten(values: Many) -> tuple[str, ...]:
    """All values, in the order given."""
    return tuple(value for group in values for value in group)


def parse(kind: type[C], args: Sequence[str], *, verb: str, default: C) -> C:
    """The value of `kind` that the arguments describe; what they do not name is as in `default`.

    Raises:
        ValueError: an unknown flag, or a value of the wrong type or out of range, in one line.
        SystemExit: help was asked for, and given.
    """
    printed = io.StringIO()
    registry = ConstructorRegistry()
    registry.struct_rule(_config_rule)
    try:
        with redirect_stderr(printed), _unwrapped_complaints(args):
            return tyro.cli(
                kind,
                args=args,
                prog=f"sparsemix {verb}",
                description=inspect.getdoc(kind),
                default=default,
                registry=registry,
            )
    except _ConfigError as error:
        raise ValueError(str(error)) from None
    except SystemExit as stop:
        if stop.code in (None, 0):
            raise
        raise ValueError(_our_words(printed.getvalue())) from None


def peek(kind: type[C], args: Sequence[str]) -> C:
    """What the arguments say of the fields of `kind`, which all have defaults; all else is passed over.

    Where they cannot be read these are the defaults: `parse` will complain.
    """
    try:
        return tyro.cli(kind, args=args, add_help=False, console_outputs=False, return_unknown_args=True)[0]
    except SystemExit:
        return kind()


def _config_rule(info: StructTypeInfo) -> StructConstructorSpec | None:
    """How tyro sees a config: a flag for each field of the classes in force.

    But for `type` and parts that are None, and lists of configs, which are for files unless a weight says all of each.
    """
    if not is_pydantic_dataclass(info.type):
        return None
    hidden, shown, hints = {}, [], hints_of(info.type)
    for name, field in info.type.__pydantic_fields__.items():
        hint: Any = hints[name]
        value, text = getattr(info.default, name), field.description
        if kinds := weighted_kinds(hint):
            text = f"{text} NAME is one of {names(kinds)}."
            hint = Annotated[hint, flag_of(kinds, f"{info.type.__name__}: {name}", _ConfigError)]
        elif is_pydantic_dataclass(type(value)):
            hint = type(value)
        elif name == "type" or configs_in(hint):  # kinds.py has had its say
            hidden[name] = value
            continue
        shown.append(StructFieldSpec(name=name, type=hint, default=value, helptext=text))

    def instantiate(**given: Any) -> Any:
        try:
            return info.type(**hidden, **given)
        except ValueError as error:
            raise _ConfigError(str(error)) from None

    return StructConstructorSpec(instantiate=instantiate, fields=tuple(shown))


@contextmanager
def _unwrapped_complaints(args: Sequence[str]) -> Iterator[None]:
    """Give tyro a terminal so wide that it breaks no line of a complaint; help is for the real one."""
    before = os.environ.get("COLUMNS")
    if not HELP & set(args):
        os.environ["COLUMNS"] = "100000"
    try:
        yield
    finally:
        if before is not None:
            os.environ["COLUMNS"] = before
        else:
            os.environ.pop("COLUMNS", None)


def _our_words(box: str) -> str:
    """A complaint of tyro, taken out of its box, as one line of ours."""
    rows = [row.strip("│| ") for row in box.splitlines()[1:-1]]  # without the border that holds the title
    text = "\n".join(row for row in rows if row.strip("─-"))
    text = text.partition("\nFor full helptext")[0]
    for pattern, line in COMPLAINTS:
        found = re.match(pattern, text)
        if found:
            return found.expand(line)
    return UNREADABLE.format(text)
