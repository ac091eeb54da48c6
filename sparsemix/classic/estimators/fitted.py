"""What a fitted mixture can be asked: gate, responsibilities, densities, information criteria."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, cast

from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from sparsemix.checks import check
from sparsemix.classic.em.criteria import aic, bic
from sparsemix.classic.em.mixture import Mixture
from sparsemix.classic.estimators.reading import Accepts, read_both, read_weights, read_X
from sparsemix.classic.numeric.blocks import in_blocks
from sparsemix.classic.parts import Array, Experts, Gate
from sparsemix.classic.predictive.pooling import Pooling, check_pooling, pooled, pooled_log_density
from sparsemix.classic.predictive.stacking import Stack


class FittedMoE(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator, ABC):
    """A mixture p(y | x) = sum_e p(e | x) p(y | x, e): everything that is a function of its fitted parts."""

    n_features_in_: int
    """Columns of X seen by `fit`; their names are in `feature_names_in_`, where X had any."""
    experts_: Experts
    """The fitted experts."""
    gate_: Gate
    """The fitted gate."""
    n_experts_: int
    """E."""
    pooling: str | int
    stack_: Stack | None
    """What `pooling="stacking"` has learned, if it is that."""

    _y_dtype: Any
    """Of targets as they are read; None for any."""

    @abstractmethod
    def _coded(self, y: Array) -> Array:
        """Targets as `Table.y`, checked against those of the fit."""

    @abstractmethod
    def _numbers(self) -> tuple[int, int]:
        """The least and the largest number of experts that a fit may have."""

    @abstractmethod
    def predict(self, X: Any) -> Array:
        """What is expected of y."""

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "experts_")

    @property
    def mixture_(self) -> Mixture:
        """The fitted parts, as one."""
        check_is_fitted(self)
        return Mixture(self.experts_, self.gate_)

    @property
    def _n_features_out(self) -> int:
        return self.n_experts_

    def _read(self, X: Any) -> Any:
        return read_X(self, X, Accepts.of(*self.mixture_))

    def _read_pair(self, X: Any, y: Any, accepts: Accepts | None = None) -> tuple[Any, Array]:
        accepts = accepts or Accepts.of(*self.mixture_)
        X, y = read_both(self, X, y, accepts, reset=False, y_dtype=self._y_dtype)
        return X, self._coded(y)

    def _pooling(self) -> Pooling:
        check_pooling(self.pooling, self._numbers()[1])
        if self.pooling != "stacking":
            return self.pooling
        check(self.stack_ is not None, "pooling", "must be set before fit to be 'stacking'", "a fit without it")
        return cast(Stack, self.stack_)

    def _pooled(self, X: Any) -> Array:
        return pooled(self.mixture_, self._read(X), self._pooling())

    def gate(self, X: Any) -> Array:
        """p(e | x), (N, E)."""
        X = self._read(X)
        return in_blocks(lambda X: softmax(self.gate_.log_scores(X), axis=1), X)

    def transform(self, X: Any) -> Array:
        """The gate's probabilities as features, (N, E)."""
        return self.gate(X)

    def responsibilities(self, X: Any, y: Any) -> Array:
        """p(e | x, y), (N, E)."""
        mixture = self.mixture_
        return in_blocks(lambda X, y: softmax(mixture.log_joint(X, y), axis=1), *self._read_pair(X, y))

    def score_samples(self, X: Any, y: Any = None) -> Array:
        """log p(y | x) of each row, (N,); without `y`, that of the prediction: how sure the mixture is of itself.

        The density is the one that predicts, with the weights of `pooling`. Of a gate that models x, log p(x) is left
        out.
        """
        mixture, pooling = self.mixture_, self._pooling()
        rows = self._read_pair(X, self.predict(X) if y is None else y)
        return in_blocks(lambda X, y: pooled_log_density(mixture, X, y, pooling), *rows)

    @property
    def n_parameters_(self) -> float:
        """Free parameters of experts and gate; there is none where the experts cannot count theirs."""
        mixture = self.mixture_
        try:
            return mixture.n_parameters
        except ValueError as error:
            raise AttributeError(str(error)) from error

    def bic(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Bayesian information criterion, the lower the better: parameters * log(sum_n w_n) - 2 log-likelihood.

        The likelihood is that of the mixture with its own gate, which EM maximises, whatever `pooling` is.

        Source: Schwarz, "Estimating the dimension of a model" (1978).
        """
        return bic(self.n_parameters_, *self._densities(X, y, sample_weight))

    def aic(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Akaike's information criterion, the lower the better: 2 parameters - 2 log-likelihood."""
        return aic(self.n_parameters_, *self._densities(X, y, sample_weight))

    def _densities(self, X: Any, y: Any, sample_weight: Any) -> tuple[Array, Array]:
        """log p(y | x) with the mixture's own gate, and the weights."""
        log_density_N = self.mixture_.log_density(*self._read_pair(X, y))
        return log_density_N, read_weights(sample_weight, log_density_N[:, None])
