"""`--balance.losses switch=0.02 z`: a list of configs that have a weight each, as their names and weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from tyro.constructors import PrimitiveConstructorSpec

from sparsemix.checks import check
from sparsemix.cli.hints import configs_in, is_list, required, tag

NONE = "None"
Kinds = dict[str, Any]
"""Name -> config class."""


def weighted_kinds(hint: Any) -> Kinds:
    """What may be in a field that is a list of configs with a weight; nothing for other fields."""
    kinds = {str(tag(kind)): kind for kind in configs_in(hint)} if is_list(hint) else {}
    return kinds if all({"type", "weight"} <= kind.__pydantic_fields__.keys() for kind in kinds.values()) else {}


def names(kinds: Kinds) -> str:
    """Those of which a weight says all there must be said, in words."""
    return ", ".join(name for name, kind in kinds.items() if not required(kind))


def flag_of(kinds: Kinds, field: str, refuse: Callable[[str], Exception]) -> PrimitiveConstructorSpec[Any]:
    """How tyro reads such a list.

    Args:
        kinds: what may be in it.
        field: what complaints call it.
        refuse: makes the exception that carries a complaint.
    """

    def read(words: list[str]) -> Any:
        try:
            return None if words == [NONE] else tuple(map(partial(_one, kinds, field), words))
        except ValueError as error:
            raise refuse(str(error)) from None

    return PrimitiveConstructorSpec(
        nargs="*",
        metavar=f"{{{NONE}}}|[NAME[=WEIGHT] ...]",
        instance_from_str=read,
        is_instance=lambda value: value is None or isinstance(value, tuple),
        str_from_instance=lambda value: [NONE] if value is None else [f"{one.type}={one.weight:g}" for one in value],
    )


def _one(kinds: Kinds, field: str, word: str) -> Any:
    name, equals, weight = word.partition("=")
    rule, remedy = "must be NAME or NAME=WEIGHT", f"choose among {names(kinds)}"
    check(name in kinds and (not equals or _is_number(weight)), field, rule, repr(word), remedy)
    needs, rule = required(kinds[name]), "must be of a kind that needs a weight at most"
    check(not needs, field, rule, f"{word!r}, which needs {', '.join(needs)}", "say it in a file for --config")
    return kinds[name](**({"weight": float(weight)} if equals else {}))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
