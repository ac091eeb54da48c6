"""One mixture with a given number of experts: starts, EM from each, the best one kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from sparsemix.classic.assign import Assign
from sparsemix.classic.em import Mixture, Run, Stopping, run_em
from sparsemix.classic.parts import Array, Experts, Gate, Table
from sparsemix.classic.starts import Start


class Plan(NamedTuple):
    """All of a fit but the table and the number of experts."""

    experts: Experts
    gate: Gate
    starts: tuple[Start, ...]
    """EM runs from each."""
    assign: Assign
    stopping: Stopping
    observe: Callable[[int, float], None] = lambda iteration, objective: None


def fit_mixture(plan: Plan, table: Table, n_experts: int, random: np.random.RandomState) -> Run:
    """The run that reached the highest objective."""
    mixture = Mixture(plan.experts.started(table, n_experts), plan.gate.started(table, n_experts))
    runs = [fit_from(plan, mixture, table, start(table, n_experts, random)) for start in plan.starts]
    return max(runs, key=lambda run: run.objective)


def fit_from(plan: Plan, mixture: Mixture, table: Table, responsibility_NE: Array) -> Run:
    """EM from responsibilities."""
    return run_em(mixture, table, responsibility_NE, plan.assign, plan.stopping, plan.observe)
