"""One expert for classes: a fitted classifier, as probabilities of all classes of the table."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, NamedTuple

import numpy as np
from sklearn.dummy import DummyClassifier

from sparsemix.classic.parts import Array, Table
from sparsemix.classic.wrapping.counting import count_parameters
from sparsemix.classic.wrapping.seeding import fresh
from sparsemix.classic.wrapping.weighting import fit_weighted, partial_fit_weighted

LEAST_PROBABILITY = 1e-6
"""Of every class, so that no row is impossible: classifiers say 0 of classes and leaves that they have not seen."""


class ClassExpert(NamedTuple):
    """p(y = k | x) = (1 - K least) p_k(x) + least, p_k what the classifier says, 0 of classes it has not seen."""

    template: Any
    """Not fitted."""
    seed: int
    num_classes: int
    classifier: Any = None

    def fitted(self, table: Table, weight_N: Array) -> ClassExpert:
        """The classifier fitted to weighted rows; rows of one class make it say that class."""
        first = table.y[0]
        if (table.y == first).all():
            return self._replace(classifier=DummyClassifier(strategy="constant", constant=first).fit(table.X, table.y))
        return self._replace(classifier=fit_weighted(self.template, table.X, table.y, weight_N, self.seed))

    def said(self, X: Any) -> Array:
        """Probabilities of all classes, (N, K)."""
        seen_NK = self.classifier.predict_proba(X)
        proba_NK = np.zeros((len(seen_NK), self.num_classes))
        proba_NK[:, self.classifier.classes_] = seen_NK
        return (1 - self.num_classes * LEAST_PROBABILITY) * proba_NK + LEAST_PROBABILITY

    def left_out(self, y: Array) -> None:
        """Not known without further fits."""

    def settled(self, said: Array, y: Array, weight_N: Array, held_out: bool) -> ClassExpert:
        """Probabilities need no noise."""
        return self

    def taught(self, table: Table, weight_N: Array, keep: float) -> ClassExpert:
        """The classifier taught some rows by `partial_fit`; anew where it does not know all classes yet."""
        knows_all = len(self.classifier.classes_) == self.num_classes
        classifier = deepcopy(self.classifier) if knows_all else fresh(self.template)
        classes = np.arange(self.num_classes)
        partial_fit_weighted(classifier, table.X, table.y, weight_N, self.seed, classes=classes)
        return self._replace(classifier=classifier)

    def log_density(self, said: Array, y: Array) -> Array:
        return np.log(said[np.arange(len(y)), y])

    def mean(self, said: Array) -> Array:
        """Classes have none: (N, 0)."""
        return said[:, :0]

    def output(self, X: Any) -> Array:
        return self.said(X)

    def variance(self, X: Any) -> Array:
        raise NotImplementedError("an expert for classes has no variance")

    @property
    def n_parameters(self) -> float:
        return count_parameters(self.classifier, "expert")
