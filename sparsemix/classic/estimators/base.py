"""What all four estimators share of fitting: parameters, the plan of EM, all or nothing."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import suppress
from copy import copy
from typing import Any, Self

import numpy as np
from sklearn.base import clone
from sklearn.utils import check_random_state

from sparsemix.checks import check
from sparsemix.classic.em.assign import Assign, Hard, Soft, Stochastic
from sparsemix.classic.em.loop import Run, Stopping
from sparsemix.classic.estimators.alike import alike
from sparsemix.classic.estimators.arguments import Shared
from sparsemix.classic.estimators.fitted import FittedMoE
from sparsemix.classic.estimators.parameters import as_gate, check_among, check_tolerance, check_whole
from sparsemix.classic.estimators.reading import Accepts, check_enough, read_both, read_weights
from sparsemix.classic.fitting.folds import folds_of
from sparsemix.classic.fitting.mixtures import Plan, resume, taken_over, weighed
from sparsemix.classic.parts import Array, Experts, Gate, Table
from sparsemix.classic.predictive.pooling import check_pooling
from sparsemix.classic.predictive.stacking import Stack, fit_stack
from sparsemix.classic.starts import STARTS, starting
from sparsemix.classic.wrapping.seeding import LARGEST_SEED, seeded

VARIANTS = ("soft", "hard", "stochastic")


class BaseMoE(Shared, FittedMoE):
    """A mixture fitted by EM."""

    n_iter_: int
    """Iterations of the run of EM that was kept."""
    converged_: bool
    """Whether that run ended before `max_iter`."""
    objective_path_: Array
    """The objective after each of its iterations: log-likelihood less penalties, in nats."""
    asked_: tuple[Any, Gate]
    """Copies of the expert and the gate that the parameters of the fit asked for, not fitted."""
    seen_weight_: float
    """Weight of all rows that the mixture learned from."""
    held_weight_: float
    """Weight that the statistics of `partial_fit` hold: less, since it forgets."""

    @abstractmethod
    def _as_experts(self, random_state: Any) -> Experts:
        """The experts that `expert` asks for."""

    @abstractmethod
    def _search(self, plan: Plan, table: Table, random_state: np.random.RandomState) -> Run:
        """The best run of EM from new starts, of as many experts as the parameters say."""

    @abstractmethod
    def _meet(self, y: Array) -> None:
        """Learn what targets are like: their shape, their classes."""

    @abstractmethod
    def _num_classes(self) -> int | None:
        """`Table.num_classes`, once targets were read."""

    def _as_gate(self) -> Gate:
        return as_gate(self.gating)

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit experts and gate jointly by EM.

        Args:
            X: (N, D), an array, a sparse matrix if the parts take it, or a data frame.
            y: targets (N,); of several outputs (N, M).
            sample_weight: (N,), none negative; 2 is a row given twice, 0 a row left out.

        Returns:
            The estimator. A fit that fails leaves it as it was.
        """
        fitted = copy(self)
        fitted._fit(X, y, sample_weight)
        return self._become(fitted)

    def _become(self, other: Self) -> Self:
        vars(self).clear()
        vars(self).update(vars(other))
        return self

    def _fit(self, X: Any, y: Any, sample_weight: Any, classes: Any = None) -> None:
        self._check_parameters()
        random_state = check_random_state(self.random_state)
        plan = self._plan(random_state)
        accepts = Accepts.of(plan.experts, plan.gate)
        if self.warm_start and self.__sklearn_is_fitted__():
            self._go_on(plan, self._read_table(*self._read_pair(X, y, accepts), sample_weight))
            return
        X, y = read_both(self, X, y, accepts, reset=True, y_dtype=self._y_dtype)
        self._meet(y if classes is None else classes)
        table = self._read_table(X, self._coded(y), sample_weight)
        check_enough(table, self._numbers()[1])
        self._keep(self._search(plan, table, random_state), table)

    def _go_on(self, plan: Plan, table: Table) -> None:
        """EM from where it ended; where other parts are asked for, of these, from the responsibilities of the old."""
        least, most = self._numbers()
        remedy = "fit with warm_start=False"
        check(least <= self.n_experts_ <= most, "n_experts", f"must stay {self.n_experts_} to go on", f"{most}", remedy)
        check_enough(table, self.n_experts_)
        go_on = resume if alike(self.asked_, (self.expert, self._as_gate())) else taken_over
        self._keep(weighed(plan, go_on(plan, self.mixture_, table), table), table)

    def _check_parameters(self) -> None:
        check_among("em", self.em, VARIANTS)
        check_among("start", self.start, STARTS)
        check_whole("n_init", self.n_init, 1)
        check_whole("max_iter", self.max_iter, 1)
        check_tolerance("tol", self.tol)
        check_pooling(self.pooling, self._numbers()[1])

    def _plan(self, random_state: np.random.RandomState) -> Plan:
        seeds = random_state.randint(LARGEST_SEED, size=2).tolist()  # numbers, so that parallel fits draw alike
        return Plan(
            self._as_experts(seeds[0]),
            seeded(self._as_gate(), seeds[1]),
            starting(self.start, self.n_init),
            self._assign(random_state),
            Stopping(self.max_iter, self.tol),
            self._report if self.verbose else lambda iteration, objective: None,
        )

    def _assign(self, random_state: np.random.RandomState) -> Assign:
        if self.em == "stochastic":
            return Stochastic(random_state)
        return Soft() if self.em == "soft" else Hard()

    def _report(self, iteration: int, objective: float) -> None:
        print(f"[{type(self).__name__}] iteration {iteration}, objective {objective:.6f}")

    def _read_table(self, X: Any, y: Array, sample_weight: Any) -> Table:
        return Table(X, y, read_weights(sample_weight, X), self._num_classes())

    def _keep(self, run: Run, table: Table) -> None:
        self.experts_, self.gate_ = run.mixture
        self.asked_ = clone((self.expert, self._as_gate()), safe=False)
        self.n_experts_ = run.responsibility_NE.shape[1]
        self.n_iter_ = len(run.path)
        self.converged_ = run.converged
        self.objective_path_ = np.array(run.path)
        self.stack_ = self._stacked(run, table)
        self.seen_weight_ = self.held_weight_ = float(table.weight_N.sum())

    def _stacked(self, run: Run, table: Table) -> Stack | None:
        """The gate learned anew on rows held out, where the pooling is stacking."""
        if self.pooling != "stacking":
            return None
        return fit_stack(run.mixture, table, run.responsibility_NE, folds_of(self.cv, table))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        with suppress(ValueError):  # wrong parts are for `fit` to refuse, not for who prints the estimator
            accepts = Accepts.of(self._as_experts(None), self._as_gate())
            tags.input_tags.sparse, tags.input_tags.allow_nan = accepts.sparse, accepts.missing
        return tags
