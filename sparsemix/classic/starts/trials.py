"""Mixtures of linear experts that starts grow or try: on what they see of a table, whatever its own parts are."""

from __future__ import annotations

import numpy as np

from sparsemix.classic.em.assign import Soft
from sparsemix.classic.em.loop import Stopping, run_em
from sparsemix.classic.em.mixture import Mixture
from sparsemix.classic.experts import LinearExperts, LogisticExperts
from sparsemix.classic.gates import ConstantGate
from sparsemix.classic.numeric.threads import one_thread
from sparsemix.classic.parts import Array, Gate, Table
from sparsemix.classic.starts.draws import random as draw
from sparsemix.classic.starts.seen import Seen, seen

TRIALS = 5
ITERATIONS = 5
FEW = 1000
"""Rows of a trial: of many more, experts with random responsibilities are so alike that EM takes long to part them."""


def learned(rows: Seen, table: Table) -> Table:
    """What was seen of the table, as one that linear or logistic experts can be fitted to."""
    return Table(rows.z_ND, rows.t_NM if table.num_classes is None else table.y, rows.weight_N, table.num_classes)


def linear_mixture(table: Table, n_experts: int, gate: Gate) -> Mixture:
    """Linear experts, or logistic ones of classes, all alike."""
    experts = LinearExperts(variance_floor=1e-3) if table.num_classes is None else LogisticExperts()
    return Mixture(experts.started(table, n_experts), gate.started(table, n_experts))


@one_thread
def trials(table: Table, n_experts: int, random: np.random.RandomState) -> Array:
    """Responsibilities of the best of some short runs of EM without a gate, each from random responsibilities.

    Runs are of the same rows, some of those with weight where there are many. Without a gate laws are parted first,
    wherever their rows are: the counterpart of `cells`.

    Source: Biernacki, Celeux & Govaert, "Choosing starting values for the EM algorithm for getting the highest
    likelihood in multivariate Gaussian mixture models" (2003).
    """
    whole = learned(seen(table), table)
    some = whole.rows(random.permutation(np.flatnonzero(whole.weight_N))[:FEW])
    mixture = linear_mixture(some, n_experts, ConstantGate())
    runs = [
        run_em(mixture, some, draw(some, n_experts, random), Soft(), Stopping(ITERATIONS, 0.0)) for _ in range(TRIALS)
    ]
    best = max(runs, key=lambda run: run.objective)
    return Soft()(best.mixture.log_joint(whole.X, whole.y)).responsibility_NE
