"""The number of experts: by BIC, by cross-validation, or by pruning the largest mixture."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from joblib import Parallel, delayed

from sparsemix.checks import check
from sparsemix.classic.em.criteria import bic
from sparsemix.classic.em.loop import Run
from sparsemix.classic.em.mixture import Mixture
from sparsemix.classic.fitting.folds import folds_of
from sparsemix.classic.fitting.mixtures import Plan, fit_mixture, resume
from sparsemix.classic.parts import Array, Table

CRITERIA = ("bic", "cv", "prune")
TAKEOVER = 5
"""Iterations of EM after which it is seen how much an expert is missed."""
SEEDS = np.iinfo(np.int32).max


class Choice(NamedTuple):
    """The mixture with the number chosen, and what was compared."""

    run: Run
    criteria: dict[str, Array]
    """`n_experts` and what was found for each number: columns of one length, in the manner of `cv_results_`."""


def choose(
    how: str,
    plan: Plan,
    table: Table,
    numbers: Sequence[int],
    cv: Any,
    random: np.random.RandomState,
    n_jobs: int | None = None,
) -> Choice:
    """Fit mixtures with some numbers of experts, and keep the best.

    Args:
        how: one of `CRITERIA`.
        numbers: in a row, the least first.
        cv: folds, as scikit-learn's `check_cv` takes them.
        n_jobs: fits at a time, by joblib; the choice does not depend on it. Pruning fits one after the other.
    """
    if how == "bic":
        return by_bic(plan, table, numbers, random, n_jobs)
    if how == "cv":
        return by_cross_validation(plan, table, numbers, cv, random, n_jobs)
    return by_pruning(plan, table, numbers, random)


def by_bic(
    plan: Plan, table: Table, numbers: Sequence[int], random: np.random.RandomState, n_jobs: int | None
) -> Choice:
    """The number with the lowest BIC, of a fit with each."""
    seeds = random.randint(SEEDS, size=len(numbers))
    jobs = (delayed(_fit)(plan, table, number, seed) for number, seed in zip(numbers, seeds, strict=True))
    runs: list[Run] = Parallel(n_jobs=n_jobs)(jobs)  # pyright: ignore[reportAssignmentType]
    found = np.array([bic_of(run.mixture, table) for run in runs])
    return Choice(runs[found.argmin()], {"n_experts": np.array(numbers), "bic": found})


def by_cross_validation(
    plan: Plan, table: Table, numbers: Sequence[int], cv: Any, random: np.random.RandomState, n_jobs: int | None
) -> Choice:
    """The least number that held-out rows cannot tell from the best; then a fit of all rows with it.

    The criterion is the mean of log p(y | x) of held-out rows. Past the true number it falls only slowly, so that its
    maximum often has experts too many. Hence the rule of one standard error: the least number whose gap to the maximum
    is within one standard error of this gap. The gap is taken within each fold, where what is hard for all drops out.

    Source: Breiman, Friedman, Olshen & Stone, "Classification and regression trees" (1984), section 3.4.3.
    """
    folds = folds_of(cv, table)
    cells = list(product(numbers, folds))
    seeds = random.randint(SEEDS, size=len(cells))
    jobs = (delayed(_held_out)(plan, table, *cell, seed) for cell, seed in zip(cells, seeds, strict=True))
    score_CF = np.array(Parallel(n_jobs=n_jobs)(jobs)).reshape(len(numbers), len(folds))
    weight_F = np.array([table.weight_N[test].sum() for _, test in folds])
    mean_C = np.average(score_CF, axis=1, weights=weight_F)
    gap_CF = score_CF[mean_C.argmax()] - score_CF
    gap_C = np.average(gap_CF, axis=1, weights=weight_F)
    variance_C = np.average((gap_CF - gap_C[:, None]) ** 2, axis=1, weights=weight_F)
    error_C = np.sqrt(variance_C / max(len(folds) - 1, 1))
    run = _fit(plan, table, numbers[int(np.argmax(gap_C <= error_C))], random.randint(SEEDS))
    criteria = {"mean_log_density": mean_C, "gap": gap_C, "gap_error": error_C}
    return Choice(run, {"n_experts": np.array(numbers), **criteria})


def by_pruning(plan: Plan, table: Table, numbers: Sequence[int], random: np.random.RandomState) -> Choice:
    """EM with the largest number, from which the expert that is missed least dies, again and again; the lowest BIC.

    Fits of all numbers follow from one start, so that it is faster than `by_bic`, and may keep experts that another
    start would not need, of classifiers above all. It goes down to the least number, for BIC may rise before it falls.

    Source: of mixtures of normals, Figueiredo & Jain, "Unsupervised learning of finite mixture models" (2002).
    """
    run = _fit(plan, table, numbers[-1], random.randint(SEEDS))
    best, found = run, [bic_of(run.mixture, table)]
    for number in reversed(numbers[1:]):
        run = resume(plan, without_least(plan, run.mixture, number, table), table)
        found.append(bic_of(run.mixture, table))
        best = run if found[-1] <= min(found) else best
    return Choice(best, {"n_experts": np.array(numbers), "bic": np.array(found[::-1])})


def without_least(plan: Plan, mixture: Mixture, experts: int, table: Table) -> Mixture:
    """The mixture less the expert whose rows the others explain best, after a few iterations to take them over."""
    short = plan._replace(stopping=plan.stopping._replace(max_iter=min(TAKEOVER, plan.stopping.max_iter)))
    others_E = (np.delete(np.arange(experts), expert) for expert in range(experts))
    return max((resume(short, mixture.only(others), table) for others in others_E), key=_objective).mixture


def _objective(run: Run) -> float:
    return run.objective


def bic_of(mixture: Mixture, table: Table) -> float:
    """BIC on its table."""
    return bic(mixture.n_parameters, mixture.log_density(table.X, table.y), table.weight_N)


def _fit(plan: Plan, table: Table, n_experts: int, seed: int) -> Run:
    """A fit whose chance depends on its seed alone, not on the fits before it or beside it."""
    alone = plan._replace(assign=deepcopy(plan.assign))
    return fit_mixture(alone, table, n_experts, np.random.RandomState(seed))


def _held_out(plan: Plan, table: Table, n_experts: int, fold: tuple[Array, Array], seed: int) -> float:
    """The weighted mean of log p(y | x) over the rows of a fold, by a fit of the other rows."""
    known, held = table.rows(fold[0]), table.rows(fold[1])
    rows = int(np.count_nonzero(known.weight_N))
    check(rows >= n_experts, "n_experts_range", f"must not exceed the {rows} rows left by a fold", n_experts)
    run = _fit(plan, known, n_experts, seed)
    log_likelihood = float(held.weight_N @ run.mixture.log_density(held.X, held.y))
    return log_likelihood / max(held.weight_N.sum(), np.finfo(float).tiny)
