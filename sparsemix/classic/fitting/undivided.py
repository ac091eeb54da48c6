"""Whether it was worth while to divide a table: a mixture against the fit of all rows that its experts began with."""

from __future__ import annotations

import numpy as np

from sparsemix.classic.em.assign import Soft
from sparsemix.classic.em.loop import Observe, Run
from sparsemix.classic.em.mixture import Mixture, Views, e_step, mixed
from sparsemix.classic.experts.moments import Scale
from sparsemix.classic.numeric.multinomial import normalised
from sparsemix.classic.parts import Table

TOLERATED = 1.1
"""How many times the error of the undivided fit that of a mixture may be: laws that differ in their noise alone gain
nothing in error, and much in density."""


def or_undivided(run: Run, undivided: Mixture, table: Table, observe: Observe) -> Run:
    """The run; or a mixture whose experts all are the fit of all rows, where rows held out speak for that.

    They do if they are not more probable under the run's mixture, or if it predicts them worse: two laws that a gate
    cannot tell apart make a good density and a bad mean. Of classes the density is what is predicted. Of experts that
    are judged by the rows they were fitted to nothing is known, and the run stands: the more parts a table has, the
    better they reproduce it.

    Args:
        undivided: as started for the table, before EM.
    """
    if not undivided.experts.holds_out or run.responsibility_NE.shape[1] == 1:
        return run
    views = undivided.views(table)
    if _evidence(run.mixture, views) > _evidence(undivided, views) and not _worse(run.mixture, undivided, views):
        return run
    whole = e_step(undivided, views, Soft())
    observe(1, whole.objective)
    return Run(undivided, (whole.objective,), 0, True, whole.responsibility_NE)


def _evidence(mixture: Mixture, views: Views) -> float:
    """sum_n w_n log p(y_n | x_n) - penalty; of gates that model x, what they say of x is left out."""
    log_N = mixed(mixture.gate.log_scores(views.gate.X), mixture.experts.training_log_density(views.experts))
    return float(views.experts.weight_N @ log_N) - mixture.penalty


def _worse(mixture: Mixture, undivided: Mixture, views: Views) -> bool:
    if views.experts.num_classes is not None:
        return False
    return _error(mixture, views) > TOLERATED * _error(undivided, views)


def _error(mixture: Mixture, views: Views) -> float:
    """Root mean square of what the pooled experts miss, each output in its own unit."""
    table = views.experts
    gate_NE = np.exp(normalised(mixture.gate.log_scores(views.gate.X)))
    missed_NM = table.y - np.einsum("ne,nem->nm", gate_NE, mixture.experts.training_mean(table))
    square_N = ((missed_NM / Scale.of(table.y, table.weight_N).unit_D) ** 2).mean(axis=1)
    return float(np.sqrt(np.average(square_N, weights=table.weight_N)))
