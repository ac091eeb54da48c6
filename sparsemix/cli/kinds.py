"""`--optimizer.type adamw`: which class of a union a part of a config has, chosen before its flags are read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import reduce
from typing import Any, TypeVar

from sparsemix.checks import check
from sparsemix.config import from_json, to_json

C = TypeVar("C")

SUFFIX = ".type"


def choose_kinds(args: Sequence[str], config: C) -> tuple[list[str], C]:
    """Take every `--PART.type KIND` out of the arguments: that part of the config becomes one of that kind.

    It has the defaults of its kind; what has none, as the size of experts, it takes over from what it replaces.

    Raises:
        ValueError: no such part, no such kind, or nothing to take over.
    """
    rest, chosen, tokens = [], {}, iter(args)
    for token in tokens:
        flag, equals, kind = token.partition("=")
        if flag.startswith("--") and flag.endswith(SUFFIX):
            chosen[flag] = kind if equals else next(tokens, "")
        else:
            rest.append(token)
    for flag, kind in chosen.items():
        config = _replaced(config, flag, kind)
    return rest, config


def _replaced(config: C, flag: str, kind: str) -> C:
    *parents, name = flag.removeprefix("--").removesuffix(SUFFIX).replace("-", "_").split(".")
    holder = reduce(lambda part, parent: getattr(part, parent, None), parents, config)
    fields = getattr(type(holder), "__pydantic_fields__", {})
    check(name in fields, flag, "must name a part of the config", repr(flag), "see --help")
    tree = json.loads(to_json(config))
    reduce(lambda node, parent: node[parent], parents, tree)[name] = {
        **_without_default(getattr(holder, name)),
        "type": kind,
    }
    return from_json(type(config), json.dumps(tree), flag)


def _without_default(part: Any) -> dict[str, Any]:
    """What a config, or None, has in the fields that one cannot leave out."""
    fields = getattr(type(part), "__pydantic_fields__", {})
    return {name: getattr(part, name) for name, field in fields.items() if field.is_required()}
