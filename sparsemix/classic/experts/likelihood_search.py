"""Where the marginal likelihood of a Gaussian process is highest: it is flat, ridged and, without noise, rough."""

from __future__ import annotations

from collections.abc import Callable
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
AGAIN = 20
"""Climbs from one place, at most."""


def wide(loss: Callable[..., Any], theta: Array, bounds: Array) -> Place:
    """The lowest loss of climbs from the kernel as it stands and from the best of places spread around it.

    An `optimizer` in the sense of `GaussianProcessRegressor`; draws nothing.
    """
    low, high = bounds.T
    spread = 2 * qmc.Sobol(len(theta), scramble=False).random_base2(LOOKS) - 1
    places = np.clip(theta + REACH * spread, low, high)
    losses = np.array([loss(place, eval_gradient=False) for place in places])
    best = places[np.argsort(losses, kind="stable")[:CLIMBS]]
    return min((onward(loss, place, bounds) for place in (theta, *best)), key=lambda found: found[1])


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
