"""The mixture for classes."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from sparsemix.classic.base import BaseMoE
from sparsemix.classic.experts import LogisticExperts
from sparsemix.classic.parts import Array, Experts, Table


class MoEClassifier(ClassifierMixin, BaseMoE):
    """A mixture of classifiers: p(y = k | x) = sum_e p(e | x) p(y = k | x, e)."""

    def _experts(self) -> Experts:
        return LogisticExperts() if self.expert is None else self.expert

    def _read_fit(self, X: Any, y: Any, sample_weight: Any) -> Table:
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32])
        check_classification_targets(y)
        self.classes_, code_N = np.unique(y, return_inverse=True)
        weight_N = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        return Table(X, code_N, weight_N, len(self.classes_))

    def _read(self, X: Any) -> Any:
        return validate_data(self, X, reset=False, dtype=[np.float64, np.float32])

    def _read_both(self, X: Any, y: Any) -> tuple[Any, Array]:
        X, y = validate_data(self, X, y, reset=False, dtype=[np.float64, np.float32])
        return X, np.searchsorted(self.classes_, y)

    def predict_proba(self, X: Any) -> Array:
        """p(y = k | x), (N, K), classes in the order of `classes_`."""
        check_is_fitted(self)
        return np.einsum("ne,nek->nk", self.gate(X), self.experts_.output(self._read(X)))

    def predict(self, X: Any) -> Array:
        """The most probable class."""
        return self.classes_[self.predict_proba(X).argmax(axis=1)]
