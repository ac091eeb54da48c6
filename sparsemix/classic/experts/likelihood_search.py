"""Where the marginal likelihood of a Gaussian process is highest: it is flat, ridged and, without noise, rough."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.stats import qmc

from sparsemix.classic.parts import Array

Place = tuple[Array, float]
"""Logs of the hyperparameters, and minus the likelihood there in nats."""
LOOKS = 6
"""Log2 of the number of places that are looked at before the best are climbed from."""
REACH = 2 * np.log(10)
"""How far from where the user's kernel stands, in each logarithm, and not beyond the kernel's bounds."""
CLIMBS = 2
"""From the best places, beside the climb from where the kernel stands."""
GAIN = 1e-3
"""Nats that make a further climb worth while."""
FLAT = 1.0
"""Slope, in nats for a unit of a logarithm, that may be rounding."""
AGAIN = 20
"""Climbs from one place, at most."""


def wide(loss: Callable[..., Any], theta: Array, bounds: Array) -> Place:
    """The lowest loss of climbs from the kernel as it stands and from the best of places spread around it.

    Next to places where covariances have no factor L-BFGS may be lost although the slope is steep: where the best climb
    ended so, steps without slopes lead away from there, and another climb goes on. An `optimizer` in the sense of
    `GaussianProcessRegressor`; draws nothing.
    """
    low, high = bounds.T
    spread = 2 * qmc.Sobol(len(theta), scramble=False).random_base2(LOOKS) - 1
    places = np.clip(theta + REACH * spread, low, high)
    losses = np.array([loss(place, eval_gradient=False) for place in places])
    best = places[np.argsort(losses, kind="stable")[:CLIMBS]]
    found = _lowest(onward(loss, place, bounds) for place in (theta, *best))
    if _slope(loss, found[0], bounds) <= FLAT:
        return found
    blind = minimize(lambda place: loss(place, eval_gradient=False), found[0], method="COBYLA", bounds=bounds)
    return _lowest((found, onward(loss, np.clip(blind.x, low, high), bounds)))


def _lowest(places: Iterable[Place]) -> Place:
    return min(places, key=lambda found: found[1])


def _slope(loss: Callable[..., Any], place: Array, bounds: Array) -> float:
    """Of the loss in the steepest of the directions that do not leave the bounds."""
    low, high = bounds.T
    return float(np.abs(place - np.clip(place - loss(place)[1], low, high)).max())


def onward(loss: Callable[..., Any], theta: Array, bounds: Array) -> Place:
    """The lowest loss that one climb finds, which starts anew where it stopped as long as that gains.

    L-BFGS stops on the ridges of processes with little noise long before their top; from there, without what it has
    learned of other places, it goes on. An `optimizer` in the sense of `GaussianProcessRegressor`.
    """
    place, value = theta, float(loss(theta, eval_gradient=False))
    for _ in range(AGAIN):
        found = minimize(loss, place, jac=True, method="L-BFGS-B", bounds=bounds)
        gained = value - float(found.fun)
        if gained > 0:
            place, value = found.x, float(found.fun)
        if not gained > GAIN:
            break
    return place, value
