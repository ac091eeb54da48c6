"""Learning curves and what they say: who needed how much to reach the same loss. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from sparsemix.checks import check


class Point(NamedTuple):
    """One evaluation of a model in training."""

    step: float
    """Optimiser steps done; a fraction where interpolated."""
    seconds: float
    """Spent on them: optimiser included, evaluation not."""
    flops: float
    """Spent on them: forward and backward."""
    loss: float
    """On held-out text, bits a byte."""


Curve = Sequence[Point]


class SpeedUp(NamedTuple):
    """What the dense twin needed divided by what the MoE needed to reach the same loss; above 1 the MoE wins."""

    level: float
    """That loss, bits a byte: the dense twin's at the end of its stable phase."""
    steps: float | None
    """None: the MoE did not reach the level in its own stable phase."""
    flops: float | None
    seconds: float | None


def speed_up(dense: Curve, moe: Curve, stable_steps: int) -> SpeedUp:
    """Compare like with like: both in the phase of constant learning rate, before any decay.

    The level is the dense twin's loss after `stable_steps`; what the MoE needed is interpolated linearly between
    the two evaluations around its first crossing of the level.

    >>> dense = [Point(10, 1.0, 5.0, 3.0), Point(20, 2.0, 10.0, 2.0)]
    >>> moe = [Point(10, 2.0, 6.0, 2.0), Point(20, 4.0, 12.0, 1.0)]
    >>> speed_up(dense, moe, stable_steps=20)
    SpeedUp(level=2.0, steps=2.0, flops=1.6666666666666667, seconds=1.0)
    """
    dense, moe = ([point for point in curve if point.step <= stable_steps] for curve in (dense, moe))
    check(len(dense) > 0 and len(moe) > 0, "curves", "need an evaluation in the stable phase", "none")
    level = dense[-1].loss
    reached = crossing(moe, level)
    if reached is None:
        return SpeedUp(level, None, None, None)
    spent = dense[-1]
    return SpeedUp(level, spent.step / reached.step, spent.flops / reached.flops, spent.seconds / reached.seconds)


def crossing(curve: Curve, level: float) -> Point | None:
    """Where the curve first comes down to the level; None if it does not."""
    if curve[0].loss <= level:
        return curve[0]
    for above, below in pairwise(curve):
        if below.loss <= level:
            share = (above.loss - level) / (above.loss - below.loss)
            return Point(*(start + share * (end - start) for start, end in zip(above, below)))
    return None


def loss_at(curve: Curve, where: float, axis: Callable[[Point], float]) -> float:
    """The loss at a place on an axis, between evaluations by linear interpolation.

    >>> loss_at([Point(10, 1.0, 5.0, 3.0), Point(20, 2.0, 10.0, 2.0)], 1.5, lambda point: point.seconds)
    2.5
    """
    before = [point for point in curve if axis(point) <= where]
    after = [point for point in curve if axis(point) >= where]
    check(bool(before) and bool(after), "curve", f"must reach from below {where} to above it", f"{len(curve)} points")
    start, end = before[-1], after[0]
    width = axis(end) - axis(start)
    share = 0.0 if width == 0 else (where - axis(start)) / width
    return start.loss + share * (end.loss - start.loss)


def loss_at_equal_seconds(curves: Mapping[str, Curve], stable_steps: int) -> dict[str, float] | None:
    """Each model's loss at the last moment at which all were still in their stable phase.

    None: one of them had not been evaluated by then.
    """
    stable = {name: [point for point in curve if point.step <= stable_steps] for name, curve in curves.items()}
    moment = min(curve[-1].seconds for curve in stable.values())
    if any(curve[0].seconds > moment for curve in stable.values()):
        return None
    return {name: loss_at(curve, moment, lambda point: point.seconds) for name, curve in stable.items()}
