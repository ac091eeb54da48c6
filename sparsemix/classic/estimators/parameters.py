"""Checks of the parameters that all estimators share."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from numbers import Integral, Real
from typing import Any

from sparsemix.checks import check
from sparsemix.classic.gates import SoftmaxGate
from sparsemix.classic.parts import Gate


def check_whole(name: str, value: Any, least: int) -> None:
    """Raise `ValueError` unless `value` is a whole number, not below `least`."""
    whole = isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least
    check(whole, name, f"must be a whole number, at least {least}", repr(value))


def check_tolerance(name: str, value: Any) -> None:
    """Raise `ValueError` unless `value` is a finite number, not negative."""
    check(isinstance(value, Real) and 0 <= float(value) < math.inf, name, "must be a number, at least 0", repr(value))


def check_range(name: str, value: Any) -> tuple[int, int]:
    """Two whole numbers, the least and the largest; raises `ValueError` of others."""
    pair = tuple(value) if isinstance(value, Iterable) else ()
    rule = "must be two whole numbers (least, largest), 1 <= least <= largest"
    check(len(pair) == 2 and all(isinstance(end, Integral) for end in pair), name, rule, repr(value))
    least, largest = (int(end) for end in pair)
    check(1 <= least <= largest, name, rule, repr(value))
    return least, largest


def check_among(name: str, value: Any, names: Collection[str]) -> None:
    """Raise `ValueError` unless `value` is one of `names`."""
    check(isinstance(value, str) and value in names, name, f"must be one of {', '.join(names)}", repr(value))


def as_gate(gating: Any) -> Gate:
    """The gate that the parameter `gating` asks for: softmax by default."""
    if gating is None:
        return SoftmaxGate()
    remedy = "pass a gate of sparsemix.classic, such as SoftmaxGate() or ClassifierGate(classifier)"
    check(isinstance(gating, Gate), "gating", "must be None or a gate", type(gating).__name__, remedy)
    return gating
