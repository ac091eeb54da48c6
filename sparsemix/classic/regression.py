"""The mixture for numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from sparsemix.classic.base import BaseMoE
from sparsemix.classic.experts import LinearExperts
from sparsemix.classic.parts import Array, Experts, Table


class MoERegressor(RegressorMixin, BaseMoE):
    """A mixture of regression experts: p(y | x) = sum_e p(e | x) N(y; mu_e(x), sigma_e^2)."""

    def _experts(self) -> Experts:
        return LinearExperts() if self.expert is None else self.expert

    def _read_fit(self, X: Any, y: Any, sample_weight: Any) -> Table:
        X, y = validate_data(self, X, y, multi_output=True, y_numeric=True, dtype=[np.float64, np.float32])
        self._one_output = y.ndim == 1
        weight_N = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        return Table(X, y.reshape(len(y), -1).astype(np.float64), weight_N)

    def _read(self, X: Any) -> Any:
        return validate_data(self, X, reset=False, dtype=[np.float64, np.float32])

    def _read_both(self, X: Any, y: Any) -> tuple[Any, Array]:
        X, y = validate_data(self, X, y, reset=False, multi_output=True, y_numeric=True, dtype=[np.float64, np.float32])
        return X, y.reshape(len(y), -1).astype(np.float64)

    def predict(self, X: Any) -> Array:
        """The mean of the mixture, sum_e p(e | x) mu_e(x)."""
        check_is_fitted(self)
        gate_NE = self.gate(X)
        mean_NM = np.einsum("ne,nem->nm", gate_NE, self.experts_.output(self._read(X)))
        return mean_NM[:, 0] if self._one_output else mean_NM
