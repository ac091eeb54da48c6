"""Any scikit-learn estimator as an expert."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from copy import copy
from typing import Any, Self

import numpy as np
from sklearn.exceptions import FitFailedWarning
from sklearn.utils import Tags, check_random_state, get_tags
from sklearn.utils.parallel import Parallel, delayed

from sparsemix.checks import check
from sparsemix.classic.experts.classes import ClassExpert
from sparsemix.classic.experts.gaussian_process import process_of
from sparsemix.classic.experts.holding_out import NEGLIGIBLE, Expert, Judged, fitted, refitted
from sparsemix.classic.experts.moments import Scale
from sparsemix.classic.experts.normal import NormalExpert
from sparsemix.classic.parts import Array, Experts, Table
from sparsemix.classic.wrapping.requirements import check_classifier, check_regressor, estimators_of
from sparsemix.classic.wrapping.seeding import LARGEST_SEED, seeded


class EstimatorExperts(Experts):
    """Experts that are scikit-learn regressors or classifiers, the same for all or a list of different ones.

    A regressor is the mean of a normal density whose variance, for each output, is the weighted mean of the squared
    residuals, not below a floor. A classifier's probabilities are the density; where it was fitted to rows of one
    class it says that class. No class is less probable than 1e-6.

    **Weights.** Each M step fits a clone to the rows of which the expert has a share of at least 1e-3, with
    `sample_weight` (`step__sample_weight` to the last step of a pipeline; under metadata routing, unless it was told to
    go without). An estimator that takes no weights, such as nearest neighbours, is fitted to rows drawn by systematic
    sampling: a row of weight 1 once, of weight 2 twice, of weight 0.3 with probability 0.3. To a Gaussian process a
    weight h is noise divided by h, and where it is not sure of its function the density widens.

    **Rows held out.** Trees, boosting and neighbours reproduce the rows they were fitted to: their residuals say
    nothing of the noise, and EM has no reason to give a row to another expert. With `cross_fit=5` residuals and the
    densities of the E step come from fits to the other folds, which stay the same for the whole fit. What is asked of
    the fitted model later, of whatever rows, comes from the fits to all rows, with that noise. Gaussian processes need
    no folds: what the other rows say of each row follows from the fit, and is what residuals and densities are made of.
    Where all experts are judged so, they stay the fit of all rows that EM begins with, in even shares, if EM does not
    make the rows more probable, or makes their errors larger by a tenth: one law is not divided.

    **Seeds.** `random_state`s that are None become seeds, one set for each expert that all its M steps share, so that
    EM compares fits and not draws.

    **Refusals.** What an estimator raises at the first fit, to all rows, is raised. If later it refuses the rows that
    its expert has come to (a ValueError: too few, say), the expert stays as it was and a `FitFailedWarning` says so.

    Labels reach classifiers as the numbers 0..K-1 in sorted order: `class_weight` as a dictionary names those.
    Multi-output targets reach a regressor that cannot take them, and Gaussian processes, one output at a time.

    Args:
        estimator: a regressor or classifier, or a list of them, one for each expert.
        cross_fit: folds to hold out, at least 2; None: no rows are held out.
        variance_floor: least variance, as a share of that of the target.
        n_jobs: experts fitted at once, by joblib; None: as the mixture says.
        random_state: of the seeds, the folds and the sampling; None: that of the mixture.

    Source: Jordan & Jacobs (1994) for EM; held-out predictions as in Wolpert, "Stacked generalization" (1992).
    """

    experts_E_: Sequence[Expert]
    judged_: Judged | None = None
    """Of the last M step; no part of a copy or of a saved model."""

    def __init__(
        self,
        estimator: Any,
        *,
        cross_fit: int | None = None,
        variance_floor: float = 1e-6,
        n_jobs: int | None = None,
        random_state: Any = None,
    ) -> None:
        self.estimator = estimator
        self.cross_fit = cross_fit
        self.variance_floor = variance_floor
        self.n_jobs = n_jobs
        self.random_state = random_state

    @property
    def _estimators(self) -> Sequence[Any]:
        return estimators_of(self.estimator)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        inputs = [get_tags(estimator).input_tags for estimator in self._estimators]
        tags.input_tags.sparse = all(one.sparse for one in inputs)
        tags.input_tags.allow_nan = all(one.allow_nan for one in inputs)
        tags.input_tags.categorical = all(one.categorical for one in inputs)
        return tags

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "judged_"}

    @property
    def takes_frames(self) -> bool:
        return True

    @property
    def exact(self) -> bool:
        return False

    @property
    def holds_out(self) -> bool:
        return self.cross_fit is not None or all(process_of(estimator) is not None for estimator in self._estimators)

    @property
    def online(self) -> bool:
        return all(hasattr(estimator, "partial_fit") for estimator in self._estimators)

    @property
    def penalty(self) -> float:
        return 0.0

    @property
    def n_parameters(self) -> float:
        return sum(expert.n_parameters for expert in self.experts_E_)

    def started(self, table: Table, n_experts: int) -> Self:
        self._check(table, n_experts)
        random = check_random_state(self.random_state)
        seeds = [int(random.randint(LARGEST_SEED)) for _ in range(n_experts)]
        floor_M = None if table.num_classes else self.variance_floor * Scale.of(table.y, table.weight_N).unit_D ** 2
        distinct = [
            _unfitted(seeded(estimator, seed), seed, table, floor_M)
            for estimator, seed in zip(self._estimators, seeds, strict=False)
        ]
        fits = self._parallel(fitted, distinct, table, [table.weight_N] * len(distinct))
        new = copy(self)
        if len(fits) == n_experts:
            new.experts_E_ = [outcome.expert for outcome in fits]
        else:
            first = fits[0].expert
            templates = [seeded(self._estimators[0], seed) for seed in seeds]
            new.experts_E_ = [
                first._replace(template=template, seed=seed) for template, seed in zip(templates, seeds, strict=True)
            ]
        new.judged_ = Judged.by(table, fits if len(fits) == n_experts else fits * n_experts)
        return new

    def _check(self, table: Table, n_experts: int) -> None:
        given = len(self._estimators)
        several = isinstance(self.estimator, list | tuple)
        check(not several or given == n_experts, "expert", f"a list must have n_experts={n_experts} entries", given)
        folds = self.cross_fit
        check(folds is None or folds >= 2, "cross_fit", "must be None or at least 2", folds)
        check(self.variance_floor > 0, "variance_floor", "must be positive", self.variance_floor)
        check_kind = check_regressor if table.num_classes is None else check_classifier
        for estimator in self._estimators:
            check_kind(estimator, "expert")

    def _parallel(self, function: Any, experts: Sequence[Expert], table: Table, weights: Any) -> list[Any]:
        jobs = zip(experts, weights, strict=True)
        calls = (delayed(function)(expert, table, weight_N, self.cross_fit) for expert, weight_N in jobs)
        return list(Parallel(n_jobs=self.n_jobs)(calls))

    def updated(self, table: Table, weight_NE: Array) -> Self:
        outcomes = self._parallel(refitted, self.experts_E_, table, np.ascontiguousarray(weight_NE.T))
        for number, outcome in enumerate(outcomes):
            if outcome.refusal:
                name, why = type(outcome.expert.template).__name__, outcome.refusal.splitlines()[0]
                message = f"expert {number} stays as it was: {name} refused the rows it has come to: {why}"
                warnings.warn(message, FitFailedWarning, stacklevel=2)
        new = copy(self)
        new.experts_E_ = [outcome.expert for outcome in outcomes]
        new.judged_ = Judged.by(table, outcomes)
        return new

    def partially_updated(self, table: Table, weight_NE: Array, keep: float) -> Self:
        """Each estimator's `partial_fit`, which forgets as it does itself; `keep` is for the noise."""
        new = copy(self)
        new.experts_E_ = [
            _taught(expert, table, w_N, keep) for expert, w_N in zip(self.experts_E_, weight_NE.T, strict=True)
        ]
        return new

    def only(self, keep_E: Array) -> Self:
        new = copy(self)
        new.experts_E_ = [self.experts_E_[expert] for expert in np.arange(len(self.experts_E_))[keep_E]]
        return new

    def log_density(self, X: Any, y: Array) -> Array:
        return np.stack([expert.log_density(expert.said(X), y) for expert in self.experts_E_], axis=1)

    def training_log_density(self, table: Table) -> Array:
        if self.judged_ is not None and self.judged_.are_of(table):
            return self.judged_.log_NE
        return super().training_log_density(table)

    def training_mean(self, table: Table) -> Array:
        if self.judged_ is not None and self.judged_.are_of(table):
            return self.judged_.mean_NEM
        return super().training_mean(table)

    def output(self, X: Any) -> Array:
        return np.stack([expert.output(X) for expert in self.experts_E_], axis=1)

    def output_of(self, expert: int, X: Any) -> Array:
        return self.experts_E_[expert].output(X)

    def variance(self, X: Any) -> Array:
        variances = [expert.variance(X) for expert in self.experts_E_]
        return np.stack(np.broadcast_arrays(*variances), axis=1)


def _unfitted(template: Any, seed: int, table: Table, floor_M: Array | None) -> Expert:
    if table.num_classes is not None:
        return ClassExpert(template, seed, table.num_classes)
    assert floor_M is not None
    return NormalExpert(template, seed, floor_M)


def _taught(expert: Expert, table: Table, weight_N: Array, keep: float) -> Expert:
    kept_N = np.flatnonzero(weight_N > NEGLIGIBLE * table.weight_N)
    return expert.taught(table.rows(kept_N), weight_N[kept_N], keep) if len(kept_N) else expert
