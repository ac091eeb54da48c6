"""The mixture for classes."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets

from sparsemix.checks import check
from sparsemix.classic.estimators.flat import FlatMoE
from sparsemix.classic.estimators.hierarchy import HierarchicalMoE
from sparsemix.classic.estimators.online import OnlineMoE
from sparsemix.classic.estimators.parameters import check_whole
from sparsemix.classic.experts import as_experts
from sparsemix.classic.parts import Array, Experts
from sparsemix.classic.predictive.density import draw


class Classification(ClassifierMixin, OnlineMoE):
    """What mixtures of classifiers do: p(y = k | x) = sum_e p(e | x) p(y = k | x, e)."""

    _y_dtype = None

    classes_: Array
    """The K classes, sorted; the numbers of classes in the experts index it."""

    def _as_experts(self, random_state: Any) -> Experts:
        return as_experts(self.expert, n_jobs=self.n_jobs, random_state=random_state, classifier=True)

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
        return self._pooled(X)

    def predict_log_proba(self, X: Any) -> Array:
        """log p(y = k | x), (N, K); minus infinity where the probability is 0 in 64 bits."""
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X))

    def predict(self, X: Any) -> Array:
        """The most probable class."""
        number_N = self.predict_proba(X).argmax(axis=1)
        return self.classes_[number_N]

    def sample(self, X: Any, n_samples: int = 1, random_state: Any = None) -> Array:
        """Classes drawn from p(y | x), (N, n_samples)."""
        check_whole("n_samples", n_samples, 1)
        return self.classes_[draw(self.predict_proba(X), n_samples, check_random_state(random_state))]

    @available_if(OnlineMoE._can_learn_online)
    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Learn from further rows by a step of online EM; the first rows are fitted as `fit` does.

        There is this method where experts and gate are online. After `fit` it goes on from there.

        Args:
            classes: all classes that may come; needed by the first call, the same in later ones.
        """
        fitted = self.__sklearn_is_fitted__()
        check(fitted or classes is not None, "classes", "must be all classes that may come", "None in the first call")
        if fitted and classes is not None:
            other = np.setxor1d(classes, self.classes_)
            seen = f"{', '.join(map(str, other[:3]))} in one call only"
            check(len(other) == 0, "classes", "must be the same in all calls", seen)
        return self._partial_fit(X, y, sample_weight, classes)


class MoEClassifier(Classification, FlatMoE):
    """A mixture of classifiers: p(y = k | x) = sum_e p(e | x) p(y = k | x, e)."""


class HierarchicalMoEClassifier(Classification, HierarchicalMoE):
    """A mixture of classifiers, the leaves of a tree of gates: p(e | x) is the product over its path."""
