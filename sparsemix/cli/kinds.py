"""`--optimizer.type adamw`: which parts a config has, and of which kind, settled before their flags are read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import reduce
from typing import Any, NamedTuple, TypeVar

from sparsemix.checks import check
from sparsemix.cli.hints import configs_in, hints_of, is_list, is_optional, is_part, required, tag
from sparsemix.config import from_json, to_json

C = TypeVar("C")
Values = dict[str, list[str]]
"""Dotted name of each flag -> the words after it."""

NONE, TYPE = "None", "type"


def choose_kinds(args: Sequence[str], config: C) -> tuple[list[str], C]:
    """Give the config the parts that the arguments speak of, and take out what says only that.

    `--PART.type KIND` makes a part one of that kind, `--PART None` takes one away, and `--PART.FIELD VALUE` makes one
    that was None. A new part has its defaults; what has none, as the size of experts, it takes from its flags, or else
    from the part that it replaces.

    Raises:
        ValueError: no such part, no such kind, or nothing to take over.
    """
    flags = _flags(args)
    values = {flag.name: flag.values for flag in flags if flag.name}
    kinds = [name for name in values if name.endswith(f".{TYPE}")]
    for name in sorted(kinds, key=lambda name: name.count(".")):  # what holds a part comes before the part
        config = _of_kind(config, name, values)
    gone = [name for name, words in values.items() if words[:1] == [NONE] and _may_go(config, name)]
    for name in gone:
        config = _with(config, name, None)
    settled = {*kinds, *gone}
    for name in values:
        if name not in settled:
            config = _with_parents(config, name, values)
    return [word for flag in flags for word in (flag.rest if flag.name in settled else flag.words)], config


class _Flag(NamedTuple):
    """A flag and the words up to the next one."""

    name: str
    """Without dashes; empty for the words before any flag."""
    values: list[str]
    """The words after it, and what `=` joins to it."""
    words: list[str]
    """All of them."""

    @property
    def rest(self) -> list[str]:
        """The words that are neither the flag nor its first value."""
        return self.values[1:] if self.name else self.words


def _flags(args: Sequence[str]) -> list[_Flag]:
    groups: list[list[str]] = [[]]
    for word in args:
        if word.startswith("--"):
            groups.append([])
        groups[-1].append(word)
    before, *groups = groups
    found = [_Flag("", [], before)]
    for words in groups:
        name, equals, value = words[0].removeprefix("--").partition("=")
        found.append(_Flag(name.replace("-", "_"), [value, *words[1:]] if equals else words[1:], words))
    return found


def _of_kind(config: C, name: str, values: Values) -> C:
    """With the part that `name`, PART.type, speaks of replaced by one of the kind that `values` says."""
    path, flag, kind = name.removesuffix(f".{TYPE}"), f"--{name}", "".join(values[name][:1])
    old, hint = _field(config, path)
    check(hint is not None, flag, "must name a part of the config", repr(flag), "see --help")
    before, part = {} if old is None else json.loads(to_json(old)), {TYPE: kind}
    for one in (one for one in configs_in(hint) if tag(one) == kind):
        part |= {field: before[field] for field in required(one) if field in before} | _given(path, one, values)
    return _with(config, path, part, flag)


def _with_parents(config: C, name: str, values: Values) -> C:
    """With every part there of which `name` is a field."""
    names = name.split(".")
    for path in (".".join(names[:depth]) for depth in range(1, len(names))):
        old, hint = _field(config, path)
        if old is not None or not is_part(hint):
            continue
        kinds, flag = configs_in(hint), f"--{path}.{TYPE}"
        remedy = f"choose among {', '.join(str(tag(kind)) for kind in kinds)}"
        check(len(kinds) == 1, flag, "must be given to a part that was none", "nothing", remedy)
        config = _with(config, path, _given(path, kinds[0], values))
    return config


def _may_go(config: Any, name: str) -> bool:
    _, hint = _field(config, name)
    return is_part(hint) and is_optional(hint)


def _field(config: Any, path: str) -> tuple[Any, Any]:
    """The value of a field and its annotation; None where there is no such field."""
    *parents, name = path.split(".")
    holder = reduce(lambda part, parent: getattr(part, parent, None), parents, config)
    return getattr(holder, name, None), hints_of(type(holder)).get(name)


def _with(config: C, path: str, part: Any, flag: str = "") -> C:
    """The config with another part in that place; complaints name the flag."""
    *parents, name = path.split(".")
    tree = json.loads(to_json(config))
    reduce(lambda node, parent: node[parent], parents, tree)[name] = part
    return from_json(type(config), json.dumps(tree), flag or f"--{path}")


def _given(path: str, kind: Any, values: Values) -> dict[str, Any]:
    """What flags say of the fields that a kind has no default for."""
    given = {field: values[f"{path}.{field}"] for field in required(kind) if f"{path}.{field}" in values}
    hints = hints_of(kind)
    return {
        field: [_read(word) for word in words] if is_list(hints[field]) else _read("".join(words[:1]))
        for field, words in given.items()
    }


def _read(word: str) -> Any:
    try:
        return json.loads(word)
    except json.JSONDecodeError:
        return word
