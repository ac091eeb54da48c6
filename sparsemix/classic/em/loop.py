"""EM from given responsibilities until its limit, or as far as inexact steps lead."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import NamedTuple

import numpy as np

from sparsemix.classic.em.ascent import climb, wander
from sparsemix.classic.em.assign import Assign, Soft
from sparsemix.classic.em.mixture import Mixture, State, Views, e_step, iteration
from sparsemix.classic.parts import Array, Table

Observe = Callable[[int, float], None]


class Run(NamedTuple):
    """What EM came to."""

    mixture: Mixture
    path: tuple[float, ...]
    """The objective after each iteration kept: (penalised) log-likelihood of all rows, in nats."""
    best: int
    """The iteration, from 0, of `mixture`: the last one, unless M steps are inexact or responsibilities drawn."""
    converged: bool
    responsibility_NE: Array
    """Of `mixture`."""
    revivals: tuple[int, ...] = ()
    """The iterations, from 0, that were the first after an expert without rows had been given some."""

    @property
    def objective(self) -> float:
        """Of `mixture`."""
        return self.path[self.best]


class Stopping(NamedTuple):
    """When EM ends."""

    max_iter: int
    tol: float
    """EM has converged when the objective is estimated to be within this of its limit, in nats a unit of weight."""
    patience: int = 3
    """Of inexact or stochastic EM, which has no limit: iterations in a row that gain less than `tol` and end it."""


def run_em(
    mixture: Mixture,
    table: Table,
    responsibility_NE: Array,
    assign: Assign,
    stopping: Stopping,
    observe: Observe = lambda iteration, objective: None,
) -> Run:
    """Raise sum_n w_n log sum_e p(e | x_n) p(y_n | x_n, e) - penalties from the responsibilities given.

    With exact M steps the objective never falls. With inexact ones the best iteration is kept; after stochastic
    iterations, which explore, soft ones go on from the best.

    Args:
        mixture: started parts.
        responsibility_NE: where to start, rows sum to one.
        assign: how responsibilities follow from the E step: soft, hard or drawn.
        observe: called after each iteration kept with its number, from 1, and the objective.

    Source: Jordan & Jacobs, "Hierarchical mixtures of experts and the EM algorithm" (1994); Dempster et al. (1977).
    """
    views = mixture.views(table)
    run = _followed(iteration(mixture, views, responsibility_NE, assign), views, assign, stopping, observe)
    seen = len(run.path)
    if assign.settles or seen == stopping.max_iter:
        return run
    again_NE = e_step(run.mixture, views, Soft()).responsibility_NE
    first = iteration(run.mixture, views, again_NE, Soft())
    left = stopping._replace(max_iter=stopping.max_iter - seen)
    soft = _followed(first, views, Soft(), left, lambda number, objective: observe(seen + number, objective))
    return appended(run, soft)


def appended(run: Run, further: Run) -> Run:
    """One run of two: the better mixture, the iterations of both."""
    path = run.path + further.path
    if further.objective >= run.objective:
        return further._replace(path=path, best=len(run.path) + further.best)
    return run._replace(path=path, converged=further.converged)


def _followed(first: State, views: Views, assign: Assign, stopping: Stopping, observe: Observe) -> Run:
    enough = stopping.tol * float(views.gate.weight_N.sum())
    if first.mixture.exact and assign.settles:
        return _collected(first, climb(first, views, assign, enough), stopping.max_iter, observe, np.inf)
    return _collected(first, wander(first, views, assign, enough, stopping.patience), stopping.max_iter, observe, 0.0)


def _collected(first: State, states: Iterable[State], max_iter: int, observe: Observe, forgiven: float) -> Run:
    """At most `max_iter` iterations; they converged if they ended of themselves.

    Args:
        forgiven: how far under the best an iteration may be and still replace it. Exact ones fall by rounding alone,
            and at the maximum rounding must not choose between them: there the last is kept, whatever it is.
    """
    best, at, path = first, 0, [first.objective]
    observe(1, first.objective)
    states = iter(states)
    for state in islice(states, max_iter - 1):
        path.append(state.objective)
        observe(len(path), state.objective)
        if state.objective >= best.objective - forgiven:
            best, at = state, len(path) - 1
    converged = len(path) < max_iter
    return Run(best.mixture, tuple(path), at, converged, best.responsibility_NE)
