"""The start of its own: experts one by one, each from a soft cut where two linear laws explain a part best."""

from __future__ import annotations

import numpy as np

from sparsemix.classic.em.assign import Soft
from sparsemix.classic.em.loop import Run, Stopping, run_em
from sparsemix.classic.gates import SoftmaxGate
from sparsemix.classic.numeric.threads import one_thread
from sparsemix.classic.parts import Array, Table
from sparsemix.classic.starts.gains import Split, best_splits, first_best
from sparsemix.classic.starts.seen import Seen, seen, thinned
from sparsemix.classic.starts.trials import learned, linear_mixture

GLANCE = 2
"""Iterations of EM that compare the best cuts."""
POLISH = 3
"""Further iterations before the next cut: parts that fit no law yet would be cut at the wrong places."""


def splits(table: Table, n_experts: int, random: np.random.RandomState) -> Array:
    """Responsibilities of a mixture of linear (or logistic) experts that grows by the cuts that raise it most.

    Deterministic, a function of the weighted rows alone: neither their order, nor rows of weight 0, nor the choice
    between a weight of 2 and a row given twice change it.

    Source: growing by the best insertion and a few iterations of EM as in Verbeek, Vlassis & Kröse, "Efficient greedy
    learning of Gaussian mixture models" (2003); short runs that compare as in Biernacki, Celeux & Govaert (2003).
    """
    return grown(table, np.ones((len(table.weight_N), 1)), n_experts)


@one_thread
def grown(table: Table, share_NE: Array, n_experts: int) -> Array:
    """Responsibilities of more experts, grown as in `splits` from those of some; of many rows, on a part of them."""
    if share_NE.shape[1] == n_experts:
        return share_NE
    rows = seen(table)
    whole = learned(rows, table)
    few_N = thinned(rows)
    few_rows, few_learned, few_NE = rows.only(few_N), whole.rows(few_N), share_NE[few_N]
    while True:
        run = _with_one_more(few_rows, few_learned, few_NE)
        few_NE = run.responsibility_NE
        if few_NE.shape[1] == n_experts:
            return Soft()(run.mixture.log_joint(whole.X, whole.y)).responsibility_NE


def _with_one_more(rows: Seen, table: Table, share_NE: Array) -> Run:
    """One more expert: of the best cuts, the one that a few iterations of EM raise higher."""
    started = linear_mixture(table, share_NE.shape[1] + 1, SoftmaxGate(alpha=1e-2, steps=1))
    proposals = [_cut(share_NE, at, split) for at, split in _proposals(rows, share_NE)]
    glances = [run_em(started, table, proposal_NE, Soft(), Stopping(GLANCE, 0.0)) for proposal_NE in proposals]
    best = glances[first_best(np.array([run.objective for run in glances]), rows.weight_N.sum())]
    return run_em(best.mixture, table, best.responsibility_NE, Soft(), Stopping(POLISH, 0.0))


def _proposals(rows: Seen, share_NE: Array) -> list[tuple[int, Split]]:
    """Experts to cut, and how: the two that gain most from a cut across a direction, the one most from residuals."""
    kinds = zip(*(best_splits(rows, share_N) for share_N in share_NE.T), strict=True)
    return [
        (at, kind[at])
        for number, kind in zip((2, 1), kinds, strict=False)
        for at in _first(np.array([split.gain for split in kind]), rows.weight_N.sum(), number)
    ]


def _first(gain_E: Array, total: float, number: int) -> list[int]:
    """The best, best first."""
    chosen: list[int] = []
    for _ in range(min(number, len(gain_E))):
        chosen.append(first_best(gain_E, total))
        gain_E[chosen[-1]] = -np.inf
    return chosen


def _cut(share_NE: Array, at: int, split: Split) -> Array:
    return np.column_stack([share_NE[:, :at], split.lower_N, split.upper_N, share_NE[:, at + 1 :]])
