"""The iterations of EM, one after the other: those that never fall, and those that wander."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sparsemix.classic.em.assign import Assign, Soft
from sparsemix.classic.em.mixture import State, Views, iteration
from sparsemix.classic.em.squarem import extrapolated

LONGEST = 4.0
"""Bound of an extrapolation, in EM steps; halved after a fall, doubled again after a gain. Steps of length a carry
rounding on a^2 times as large: with 16, a weight of 2 and a row given twice came apart by twice what scikit-learn's
check forgives, with 4 by 0.002 of it; 16 saves a quarter of the iterations at most."""

ROUNDING = 64 * np.finfo(float).eps
"""A gain of at most this part of the objective is none: sums over all rows differ by as much."""


def climb(state: State, views: Views, assign: Assign, enough: float) -> Iterator[State]:
    """Exact EM until its limit is at most `enough` above: two plain iterations, then an extrapolated one if it gains.

    Only soft responsibilities are extrapolated: hard ones do not move by degrees. And only while gains fall: where they
    rise EM leaves a saddle, and long steps there make differences of a rounding, as between a weight of 2 and a row
    given twice, into differences of the result. Nor where nothing is left to gain, and rounding would decide.
    """
    longest, reached = LONGEST, -np.inf
    while True:
        one = iteration(state.mixture, views, state.responsibility_NE, assign)
        yield one
        two = iteration(one.mixture, views, one.responsibility_NE, assign)
        yield two
        left = remaining_gain(state.objective, one.objective, two.objective)
        if max(left, two.objective - reached) <= enough:
            return
        trio, reached, state = (state, one, two), two.objective, two
        if not isinstance(assign, Soft) or not enough < left < np.inf:
            continue
        leap = _leap(trio, views, assign, longest)
        if leap.objective >= two.objective:
            yield leap
            state = leap
            longest = min(2 * longest, LONGEST)
        else:
            longest = max(longest / 2, 1.0)


def _leap(trio: tuple[State, State, State], views: Views, assign: Assign, longest: float) -> State:
    last = trio[2]
    weight_NE = views.gate.weight_N[:, None] * last.responsibility_NE
    log_NE = extrapolated([state.log_joint_NE for state in trio], weight_NE, longest)
    return iteration(last.mixture, views, assign(log_NE).responsibility_NE, assign)


def wander(state: State, views: Views, assign: Assign, enough: float, patience: int) -> Iterator[State]:
    """Iterations whose objective may fall, until none of the last `patience` raised the best by more than `enough`."""
    best, without = state.objective, 0
    while without < patience:
        state = iteration(state.mixture, views, state.responsibility_NE, assign)
        without = 0 if state.objective > best + enough else without + 1
        best = max(best, state.objective)
        yield state


def remaining_gain(before: float, now: float, after: float) -> float:
    """How far EM's limit is above `after`, if gains fall geometrically: as the last two did, or at least by a tenth.

    Source: Boehning et al., "The distribution of the likelihood ratio for mixtures of densities from the
    one-parameter exponential family" (1994), after Aitken.
    """
    first, second = now - before, after - now
    if second <= ROUNDING * abs(after):
        return 0.0
    if second >= first:
        return np.inf
    return max(second * second / (first - second), 9 * second)
