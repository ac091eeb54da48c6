"""One mixture with a given number of experts: starts, EM from each, the best one kept, its dead experts revived."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sparsemix.classic.em.assign import Assign, Soft
from sparsemix.classic.em.loop import Observe, Run, Stopping, appended, run_em
from sparsemix.classic.em.mixture import Mixture
from sparsemix.classic.parts import Array, Experts, Gate, Table
from sparsemix.classic.starts import Start, reseeded

DEAD = 0.02
"""An expert whose share of the weight is under this part of an even share has died."""


class Plan(NamedTuple):
    """All of a fit but the table and the number of experts."""

    experts: Experts
    gate: Gate
    starts: tuple[Start, ...]
    """EM runs from each."""
    assign: Assign
    stopping: Stopping
    observe: Observe = lambda iteration, objective: None


def fit_mixture(plan: Plan, table: Table, n_experts: int, random: np.random.RandomState) -> Run:
    """The run that reached the highest objective, with experts that died revived where that raises it."""
    mixture = _started(plan, table, n_experts)
    runs = [fit_from(plan, mixture, table, start(table, n_experts, random)) for start in plan.starts]
    return revived(plan, table, max(runs, key=lambda run: run.objective))


def fit_from(plan: Plan, mixture: Mixture, table: Table, responsibility_NE: Array) -> Run:
    """EM from responsibilities."""
    return run_em(mixture, table, responsibility_NE, plan.assign, plan.stopping, plan.observe)


def resume(plan: Plan, mixture: Mixture, table: Table) -> Run:
    """EM from a fitted mixture, on its table or another: a warm start."""
    return fit_from(plan, mixture, table, _shares(mixture, table))


def taken_over(plan: Plan, mixture: Mixture, table: Table) -> Run:
    """EM of new parts from the responsibilities of a fitted mixture."""
    share_NE = _shares(mixture, table)
    return fit_from(plan, _started(plan, table, share_NE.shape[1]), table, share_NE)


def _started(plan: Plan, table: Table, n_experts: int) -> Mixture:
    return Mixture(plan.experts.started(table, n_experts), plan.gate.started(table, n_experts))


def _shares(mixture: Mixture, table: Table) -> Array:
    return Soft()(mixture.log_joint(table.X, table.y)).responsibility_NE


def revived(plan: Plan, table: Table, run: Run) -> Run:
    """The run, or one that goes on from it with its dead experts given half of others' rows, if that is higher.

    A proposal is fitted apart, with the iterations that are left, and only what lies above the run joins its path.
    """
    enough = plan.stopping.tol * float(table.weight_N.sum())
    while True:
        dead_E = _dead(table, run.responsibility_NE)
        left = plan.stopping.max_iter - len(run.path)
        if not dead_E.any() or left < 1:
            return run
        seen = len(run.path)
        trial = run_em(
            run.mixture,
            table,
            reseeded(table, run.responsibility_NE, dead_E),
            plan.assign,
            plan.stopping._replace(max_iter=left),
        )
        if trial.objective <= run.objective + enough:
            return run
        run = _after_revival(run, trial)
        for number, objective in enumerate(run.path[seen:], start=seen + 1):
            plan.observe(number, objective)


def _dead(table: Table, responsibility_NE: Array) -> Array:
    weight_E = table.weight_N @ responsibility_NE
    return weight_E * len(weight_E) < DEAD * weight_E.sum()


def _after_revival(run: Run, trial: Run) -> Run:
    above = next(number for number, objective in enumerate(trial.path) if objective > run.objective)
    higher = trial._replace(path=trial.path[above:], best=trial.best - above)
    return appended(run, higher)._replace(revivals=(*run.revivals, len(run.path)))
