"""The gate that does not look: mixing proportions."""

from __future__ import annotations

from copy import copy
from typing import Any, Self

import numpy as np
from sklearn.utils import Tags
from sklearn.utils.validation import _num_samples

from sparsemix.classic.numeric.design import reading_tags
from sparsemix.classic.parts import Array, Gate, Table


class ConstantGate(Gate):
    """p(e | x) = pi_e, the share of expert e in the weight of all rows: a mixture of regressions without a gate.

    Source: DeSarbo & Cron, "A maximum likelihood methodology for clusterwise linear regression" (1988).
    """

    weight_E_: Array
    """Weight of the rows of each expert."""

    def __sklearn_tags__(self) -> Tags:
        return reading_tags(super().__sklearn_tags__(), None)

    def started(self, table: Table, n_experts: int) -> Self:
        new = copy(self)
        new.weight_E_ = np.zeros(n_experts)
        return new

    def log_scores(self, X: Any) -> Array:
        return np.broadcast_to(log_shares(self.weight_E_), (_num_samples(X), len(self.weight_E_)))

    def updated(self, table: Table, responsibility_NE: Array) -> Self:
        new = copy(self)
        new.weight_E_ = table.weight_N @ responsibility_NE
        return new

    @property
    def online(self) -> bool:
        return True

    def partially_updated(self, table: Table, responsibility_NE: Array, keep: float) -> Self:
        new = copy(self)
        new.weight_E_ = keep * self.weight_E_ + table.weight_N @ responsibility_NE
        return new

    @property
    def penalty(self) -> float:
        return 0.0

    @property
    def n_parameters(self) -> float:
        return len(self.weight_E_) - 1

    def only(self, keep_E: Array) -> Self:
        new = copy(self)
        new.weight_E_ = self.weight_E_[keep_E]
        return new


def log_shares(weight_E: Array) -> Array:
    """Logs of shares of a total, even where there is none; finite, so that an expert without rows stays a number."""
    total = weight_E.sum()
    if total == 0:
        return np.full(len(weight_E), -np.log(len(weight_E)))
    return np.log(np.maximum(weight_E / total, np.finfo(float).tiny))
