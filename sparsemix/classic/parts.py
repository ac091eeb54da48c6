"""What EM needs of experts and gates: their two abstract classes, and the table that they are fitted to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

Array = NDArray[Any]


class Table(NamedTuple):
    """The rows of one fit, checked."""

    X: Any
    """(N, D): an array, a sparse matrix or a data frame, as the parts take it."""
    y: Array
    """Targets (N, M) for regression; the numbers of the classes (N,), integers from 0, for classification."""
    weight_N: Array
    """Sample weights, float64, none below 0; a weight of 2 is exactly a row given twice, and 0 a row left out."""
    num_classes: int | None = None
    """K for classification, None for regression."""

    def rows(self, chosen: Array) -> Table:
        """The table of some rows (indexes, or a mask)."""
        from sklearn.utils import _safe_indexing

        indices = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
        return self._replace(X=_safe_indexing(self.X, indices), y=self.y[indices], weight_N=self.weight_N[indices])


class Part(BaseEstimator, ABC):
    """Experts or a gate. A part is a value: what fits it returns another one and leaves it as it is.

    So EM keeps the best iterate, starts several times and goes back without copying models. Arguments of `__init__` are
    parameters in the sense of scikit-learn; what is learned ends in `_` and is set on the copies only.
    """

    @property
    @abstractmethod
    def penalty(self) -> float:
        """What is subtracted from the log-likelihood for the parameters, in nats (0 without regularisation)."""

    @property
    @abstractmethod
    def n_parameters(self) -> float:
        """Free parameters, for BIC and AIC."""

    @property
    def exact(self) -> bool:
        """Whether `updated` never lowers what EM maximises; otherwise EM keeps the best of what it has seen."""
        return True

    @property
    def online(self) -> bool:
        """Whether there is `partially_updated`."""
        return False

    def prepared(self, X: Any) -> Any:
        """X as this part, once started, reads it fastest: what takes X takes this too. EM asks once for all passes."""
        return X

    @abstractmethod
    def only(self, keep_E: Array) -> Self:
        """The part with some of the experts (a mask or indexes), those in the order given."""


class Experts(Part):
    """All experts of a mixture: p(y | x, e) for e in 0..E-1."""

    @property
    def takes_frames(self) -> bool:
        """Whether X may be a data frame, or hold NaN; what of them they cannot use they refuse themselves."""
        return False

    @abstractmethod
    def started(self, table: Table, n_experts: int) -> Self:
        """Scales, classes and shapes learned; every expert set to the same fit of all rows."""

    @abstractmethod
    def updated(self, table: Table, weight_NE: Array) -> Self:
        """The M step: each expert maximises sum_n weight_NE[n, e] log p(y_n | x_n, e) - its penalty.

        Args:
            weight_NE: sample weight times responsibility. A column may be zero: that expert stays as it was.
        """

    @property
    def holds_out(self) -> bool:
        """Whether `training_log_density` and `training_mean` say of each row what fits say that did not see it."""
        return False

    @abstractmethod
    def log_density(self, X: Any, y: Array) -> Array:
        """log p(y_n | x_n, e), (N, E)."""

    def training_log_density(self, table: Table) -> Array:
        """`log_density` of the rows that `started` or `updated` has just seen, for the E step."""
        return self.log_density(table.X, table.y)

    @abstractmethod
    def output(self, X: Any) -> Array:
        """What each expert says, (N, E, M): means for regression, probabilities of classes for classification."""

    def training_mean(self, table: Table) -> Array:
        """`output` of the rows that `started` or `updated` has just seen; regression only."""
        return self.output(table.X)

    def partially_updated(self, table: Table, weight_NE: Array, keep: float) -> Self:
        """An online M step: statistics of all rows before, times `keep`, plus those of these rows."""
        raise NotImplementedError(f"{type(self).__name__} learns from whole tables only")

    def output_of(self, expert: int, X: Any) -> Array:
        """What one expert says, (N, M); top-k pooling calls it with the rows that chose the expert."""
        return self.output(X)[:, expert]

    def variance(self, X: Any) -> Array:
        """Variance of each expert's normal density, one that can be broadcast to (N, E, M); regression only."""
        raise NotImplementedError(f"{type(self).__name__} has no variance: it is no expert for regression")


class Gate(Part):
    """The gate: p(e | x)."""

    @property
    def models_x(self) -> bool:
        """Whether `log_scores` are log p(x, e), of a density of x too."""
        return False

    @abstractmethod
    def started(self, table: Table, n_experts: int) -> Self:
        """Features and scales learned; every expert equally probable everywhere."""

    @abstractmethod
    def updated(self, table: Table, responsibility_NE: Array) -> Self:
        """The M step: raises sum_n weight_n sum_e responsibility_NE log p(e | x_n) - penalty, from the current gate.

        A gate that models x raises the same sum of log p(x_n, e).
        """

    def partially_updated(self, table: Table, responsibility_NE: Array, keep: float) -> Self:
        """An online M step: statistics of all rows before, times `keep`, plus those of these rows."""
        raise NotImplementedError(f"{type(self).__name__} learns from whole tables only")

    @abstractmethod
    def log_scores(self, X: Any) -> Array:
        """log p(e | x), (N, E); or, of a gate that models x, log p(x, e), whose row is the log of parts of p(x)."""
