"""What all four estimators share: parameters, fit, and everything that is a function of the fitted mixture."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Self

import numpy as np
from scipy.special import logsumexp
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from sparsemix.checks import check
from sparsemix.classic.assign import Assign, Hard, Soft, Stochastic
from sparsemix.classic.em import Mixture, Stopping
from sparsemix.classic.fitting import Plan, fit_mixture
from sparsemix.classic.gates import SoftmaxGate
from sparsemix.classic.multinomial import normalised
from sparsemix.classic.parts import Array, Experts, Gate, Table
from sparsemix.classic.starts import starting


class BaseMoE(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator, ABC):
    """A mixture p(y | x) = sum_e p(e | x) p(y | x, e), fitted by EM."""

    def __init__(
        self,
        expert: Any = None,
        *,
        n_experts: int | str = 2,
        gating: Any = None,
        em: str = "soft",
        start: str = "splits",
        n_init: int = 1,
        max_iter: int = 200,
        tol: float = 1e-6,
        pooling: str | int = "soft",
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.expert = expert
        self.n_experts = n_experts
        self.gating = gating
        self.em = em
        self.start = start
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.pooling = pooling
        self.random_state = random_state
        self.verbose = verbose

    @abstractmethod
    def _read_fit(self, X: Any, y: Any, sample_weight: Any) -> Table:
        """The rows checked, names and numbers of features and classes remembered."""

    @abstractmethod
    def _read(self, X: Any) -> Any:
        """X checked against what was fitted."""

    @abstractmethod
    def _read_both(self, X: Any, y: Any) -> tuple[Any, Array]:
        """X and targets checked against what was fitted, targets as `Table.y`."""

    @abstractmethod
    def _experts(self) -> Experts:
        """The experts that `expert` asks for."""

    def _gate(self) -> Gate:
        return SoftmaxGate() if self.gating is None else self.gating

    def _assign(self, random_state: np.random.RandomState) -> Assign:
        variants = {"soft": Soft(), "hard": Hard(), "stochastic": Stochastic(random_state)}
        check(self.em in variants, "em", f"must be one of {', '.join(variants)}", repr(self.em))
        return variants[self.em]

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit experts and gate jointly by EM."""
        table = self._read_fit(X, y, sample_weight)
        random_state = check_random_state(self.random_state)
        plan = Plan(
            self._experts(),
            self._gate(),
            starting(self.start, self.n_init),
            self._assign(random_state),
            Stopping(self.max_iter, self.tol),
        )
        run = fit_mixture(plan, table, self.n_experts, random_state)
        self.experts_, self.gate_ = run.mixture
        self.n_experts_ = run.responsibility_NE.shape[1]
        self.n_iter_ = len(run.path)
        self.converged_ = run.converged
        self.objective_path_ = np.array(run.path)
        return self

    @property
    def mixture_(self) -> Mixture:
        """The fitted parts, as one."""
        check_is_fitted(self)
        return Mixture(self.experts_, self.gate_)

    @property
    def _n_features_out(self) -> int:
        return self.n_experts_

    def gate(self, X: Any) -> Array:
        """p(e | x), (N, E)."""
        check_is_fitted(self)
        return np.exp(normalised(self.gate_.log_scores(self._read(X))))

    def transform(self, X: Any) -> Array:
        """The gate's probabilities as features, (N, E)."""
        return self.gate(X)

    def responsibilities(self, X: Any, y: Any) -> Array:
        """p(e | x, y), (N, E)."""
        check_is_fitted(self)
        return np.exp(normalised(self.mixture_.log_joint(*self._read_both(X, y))))

    def score_samples(self, X: Any, y: Any = None) -> Array:
        """log p(y | x) of each row, (N,); without `y`, that of the prediction: how sure the mixture is of itself."""
        check_is_fitted(self)
        X, y = self._read_both(X, self.predict(X) if y is None else y)
        log_gate_NE = normalised(self.gate_.log_scores(X))
        return logsumexp(log_gate_NE + self.experts_.log_density(X, y), axis=1)
