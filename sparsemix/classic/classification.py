"""The mixture for classes."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import check_classification_targets

from sparsemix.checks import check
from sparsemix.classic.base import BaseMoE
from sparsemix.classic.blocks import in_blocks
from sparsemix.classic.experts import LogisticExperts
from sparsemix.classic.fitted import soft
from sparsemix.classic.flat import FlatMoE
from sparsemix.classic.hierarchy import HierarchicalMoE
from sparsemix.classic.parts import Array, Experts


class Classification(ClassifierMixin, BaseMoE):
    """What mixtures of classifiers do: p(y = k | x) = sum_e p(e | x) p(y = k | x, e)."""

    _y_dtype = None

    classes_: Array
    """The K classes, sorted; the numbers of classes in the experts index it."""

    def _as_experts(self, random_state: Any) -> Experts:
        return LogisticExperts() if self.expert is None else self.expert

    def _num_classes(self) -> int:
        return len(self.classes_)

    def _meet(self, y: Array) -> None:
        check_classification_targets(y)
        self.classes_ = np.unique(y)

    def _coded(self, y: Array) -> Array:
        y = column_or_1d(y, warn=True)
        unseen = np.setdiff1d(y, self.classes_)
        check(len(unseen) == 0, "y", "must hold classes of the fit only", ", ".join(map(str, unseen[:3])))
        return np.searchsorted(self.classes_, y)

    def predict_proba(self, X: Any) -> Array:
        """p(y = k | x), (N, K), classes in the order of `classes_`."""
        mixture = self.mixture_
        return in_blocks(lambda X: soft(mixture, X), self._read(X))

    def predict_log_proba(self, X: Any) -> Array:
        """log p(y = k | x), (N, K)."""
        return np.log(self.predict_proba(X))

    def predict(self, X: Any) -> Array:
        """The most probable class."""
        number_N = self.predict_proba(X).argmax(axis=1)
        return self.classes_[number_N]


class MoEClassifier(Classification, FlatMoE):
    """A mixture of classifiers: p(y = k | x) = sum_e p(e | x) p(y = k | x, e)."""


class HierarchicalMoEClassifier(Classification, HierarchicalMoE):
    """A mixture of classifiers, the leaves of a tree of gates: p(e | x) is the product over its path."""
