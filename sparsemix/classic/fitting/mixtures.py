"""One mixture with a given number of experts: starts, EM from each, the best one kept, its dead experts revived."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sparsemix.classic.em.assign import Assign, Soft
from sparsemix.classic.em.loop import Observe, Run, Stopping, appended, run_em
from sparsemix.classic.em.mixture import Mixture
from sparsemix.classic.fitting.undivided import or_undivided
from sparsemix.classic.parts import Array, Experts, Gate, Table
from sparsemix.classic.starts import Start, grown

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
    """The run that reached the highest objective, with experts that died revived where that raises it.

    Where rows held out say that the table should not have been divided, all experts are the fit of all rows.
    """
    undivided = started(plan, table, n_experts)
    runs = [fit_from(plan, undivided, table, start(table, n_experts, random)) for start in plan.starts]
    best = revived(plan, table, max(runs, key=lambda run: run.objective))
    return or_undivided(best, undivided, table, plan.observe)


def weighed(plan: Plan, run: Run, table: Table) -> Run:
    """A run that went on from another fit, or the undivided one, as at the end of `fit_mixture`."""
    if not plan.experts.holds_out:
        return run  # spared a fit of all rows that nothing would be learned from
    return or_undivided(run, started(plan, table, run.responsibility_NE.shape[1]), table, plan.observe)


def started(plan: Plan, table: Table, n_experts: int) -> Mixture:
    """The parts of the plan, with all experts alike."""
    return Mixture(plan.experts.started(table, n_experts), plan.gate.started(table, n_experts))


def fit_from(plan: Plan, mixture: Mixture, table: Table, responsibility_NE: Array) -> Run:
    """EM from responsibilities."""
    return run_em(mixture, table, responsibility_NE, plan.assign, plan.stopping, plan.observe)


def resume(plan: Plan, mixture: Mixture, table: Table) -> Run:
    """EM from a fitted mixture, on its table or another: a warm start."""
    return fit_from(plan, mixture, table, _shares(mixture, table))


def taken_over(plan: Plan, mixture: Mixture, table: Table) -> Run:
    """EM of new parts from the responsibilities of a fitted mixture."""
    share_NE = _shares(mixture, table)
    return fit_from(plan, started(plan, table, share_NE.shape[1]), table, share_NE)


def _shares(mixture: Mixture, table: Table) -> Array:
    return Soft()(mixture.log_joint(table.X, table.y)).responsibility_NE


def revived(plan: Plan, table: Table, run: Run) -> Run:
    """The run, or a better one that goes on from its living experts, which grow to their number anew.

    A proposal is fitted apart, with the iterations that are left, and only what lies above the run joins its path.
    """
    enough = plan.stopping.tol * float(table.weight_N.sum())
    left = plan.stopping.max_iter - len(run.path)
    dead_E = _dead(table, run.responsibility_NE)
    if not dead_E.any() or left < 1:
        return run
    living_NE = run.responsibility_NE[:, ~dead_E] + np.finfo(float).tiny  # rows that only the dead had: to all alike
    share_NE = grown(table, living_NE / living_NE.sum(axis=1, keepdims=True), len(dead_E))
    stopping = plan.stopping._replace(max_iter=left)
    trial = run_em(started(plan, table, len(dead_E)), table, share_NE, plan.assign, stopping)
    if trial.objective <= run.objective + enough:
        return run
    longer = _after_revival(run, trial)
    for number in range(len(run.path), len(longer.path)):
        plan.observe(number + 1, longer.path[number])
    return revived(plan, table, longer)


def _dead(table: Table, responsibility_NE: Array) -> Array:
    weight_E = table.weight_N @ responsibility_NE
    return weight_E * len(weight_E) < DEAD * weight_E.sum()


def _after_revival(run: Run, trial: Run) -> Run:
    above = next(number for number, objective in enumerate(trial.path) if objective > run.objective)
    higher = trial._replace(path=trial.path[above:], best=trial.best - above)
    return appended(run, higher)._replace(revivals=(*run.revivals, len(run.path)))
