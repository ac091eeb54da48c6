"""Where rising functions cross zero, many at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sparsemix.classic.parts import Array

PATIENCE = 20
"""Steps that may interpolate; what is not found by then, functions with steep and flat pieces, is bisected."""


def rising_roots(function: Callable[[Array], Array], low: Array, high: Array, tolerance: Array) -> Array:
    """x with function(x) = 0 between `low` and `high`, each within `tolerance`, of functions that never fall.

    Args:
        function: elementwise, finite.
        low: where it is 0 or below.
        high: where it is 0 or above.
        tolerance: above the spacing of floating point numbers at `low` and `high`.

    Source: Chandrupatla, "A new hybrid quadratic/bisection algorithm for finding the zero of a nonlinear function
        without using derivatives" (1997).
    """
    new, old = low, high
    at_old = function(old)
    at_new = np.minimum(function(new), -np.finfo(float).tiny)  # so that signs say the side even of a root at `low`
    share = np.full(np.broadcast(low, high).shape, 0.5)
    bisections = np.log2(np.maximum((high - low) / tolerance, 1))
    for step in range(PATIENCE + 2 + int(bisections.max(initial=0))):
        x = new + share * (old - new)
        value = function(x)
        beyond = (value < 0) == (at_new < 0)  # then the root is between x and `old`, else between x and `new`
        older, at_older = np.where(beyond, new, old), np.where(beyond, at_new, at_old)
        old, at_old = np.where(beyond, old, new), np.where(beyond, at_old, at_new)
        new, at_new = x, value
        width = np.abs(old - new)
        if (width <= tolerance).all():
            break
        share = np.full_like(share, 0.5)
        if step < PATIENCE:
            share = interpolated(new, old, older, at_new, at_old, at_older)
        least = 0.5 * tolerance / np.maximum(width, tolerance)
        share = np.where(width <= tolerance, 0.0, np.clip(share, least, 1 - least))  # a root waits for the others
    return np.where(np.abs(at_new) <= np.abs(at_old), new, old)


def interpolated(new: Array, old: Array, older: Array, at_new: Array, at_old: Array, at_older: Array) -> Array:
    """How far from `new` to `old` the inverse parabola through the three is zero; half way where it is no guide."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        place = (new - old) / (older - old)
        height = (at_new - at_old) / (at_older - at_old)
        guide = (height**2 < place) & ((1 - height) ** 2 < 1 - place)
        chord = at_new / (at_old - at_new) * at_older / (at_old - at_older)
        bend = (older - new) / (old - new) * at_new / (at_older - at_new) * at_old / (at_older - at_old)
        return np.where(guide & np.isfinite(chord + bend), chord + bend, 0.5)
