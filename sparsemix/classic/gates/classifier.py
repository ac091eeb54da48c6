"""A gate of the user's: any classifier that says probabilities, fitted on responsibilities as soft labels."""

from __future__ import annotations

from copy import copy, deepcopy
from typing import Any, Self, cast

import numpy as np
from sklearn.base import clone
from sklearn.pipeline import Pipeline
from sklearn.utils import Tags, _safe_indexing, get_tags
from sklearn.utils.validation import _num_samples, has_fit_parameter

from sparsemix.checks import check
from sparsemix.classic.numeric.coefficients import count_coefficients
from sparsemix.classic.parts import Array, Gate, Table

LEAST = 1e-3
"""Labels of less than this share of a row's largest are not fitted."""


class ClassifierGate(Gate):
    """p(e | x) by a classifier that is fitted anew in each M step, each row once for each expert with its
    responsibility as weight; a classifier without `sample_weight` gets each row once, labelled by its most responsible
    expert, and rows of weight 0 not at all.

    The M step need not raise anything, so EM keeps the best iterate. A classifier that learns its rows by heart agrees
    with any responsibilities: limit it, such as by `min_samples_leaf`.

    Args:
        estimator: a classifier with `predict_proba`. It is cloned; X reaches it as the mixture got it.
        smoothing: probability that is dealt out evenly, so that no expert is impossible: s / E + (1 - s) p.
    """

    classifier_: Any
    """Fitted; None: not yet, or all rows have one label."""
    labels_: Array
    """Experts that the fit saw, in the order of the columns of `predict_proba`."""
    experts_E_: Array
    """Which of the experts of the fit are still there."""

    def __init__(self, estimator: Any, smoothing: float = 1e-3) -> None:
        self.estimator = estimator
        self.smoothing = smoothing

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags = get_tags(self.estimator).input_tags
        return tags

    def started(self, table: Table, n_experts: int) -> Self:
        seen, remedy = f"{self.estimator!r} without it", "wrap it in CalibratedClassifierCV"
        check(hasattr(self.estimator, "predict_proba"), "estimator", "must have predict_proba", seen, remedy)
        check(0 < self.smoothing < 1, "smoothing", "must be in (0, 1)", self.smoothing)
        new = copy(self)
        new.classifier_, new.labels_, new.experts_E_ = None, np.arange(0), np.arange(n_experts)
        return new

    @property
    def exact(self) -> bool:
        return False

    def updated(self, table: Table, responsibility_NE: Array) -> Self:
        new = copy(self)
        row_R, label_R, weight_R = self._labelled(table, responsibility_NE)
        new.experts_E_, new.labels_ = np.arange(responsibility_NE.shape[1]), np.unique(label_R)
        new.classifier_ = None
        if len(new.labels_) > 1:
            classifier = cast(Any, clone(self.estimator))
            weights = dict.fromkeys(weight_names(classifier), weight_R)
            new.classifier_ = classifier.fit(_safe_indexing(table.X, row_R), label_R, **weights)
        return new

    def _labelled(self, table: Table, responsibility_NE: Array) -> tuple[Array, Array, Array]:
        """Rows, labels and weights to fit."""
        weight_NE = table.weight_N[:, None] * responsibility_NE
        most_N1 = responsibility_NE.max(axis=1, keepdims=True)
        taken_NE = (weight_NE > 0) & (responsibility_NE >= LEAST * most_N1)
        if not weight_names(self.estimator):
            taken_NE &= np.arange(weight_NE.shape[1]) == responsibility_NE.argmax(axis=1)[:, None]
        row_R, label_R = np.nonzero(taken_NE)
        return row_R, label_R, weight_NE[taken_NE]

    @property
    def online(self) -> bool:
        return hasattr(self.estimator, "partial_fit")

    def partially_updated(self, table: Table, responsibility_NE: Array, keep: float) -> Self:
        """The classifier's own `partial_fit`, which forgets as it does: `keep` does not reach it."""
        new = copy(self)
        row_R, label_R, weight_R = self._labelled(table, responsibility_NE)
        new.labels_ = new.experts_E_ = np.arange(responsibility_NE.shape[1])
        new.classifier_ = clone(self.estimator) if self.classifier_ is None else deepcopy(self.classifier_)
        weights = {"sample_weight": weight_R} if has_fit_parameter(self.estimator, "sample_weight") else {}
        new.classifier_.partial_fit(_safe_indexing(table.X, row_R), label_R, classes=new.labels_, **weights)
        return new

    def log_scores(self, X: Any) -> Array:
        experts = 1 + max(self.experts_E_.max(), self.labels_.max(initial=0))
        p_NE = np.zeros((_num_samples(X), experts))
        if self.classifier_ is not None:
            p_NE[:, self.labels_] = self.classifier_.predict_proba(X)
        elif len(self.labels_):
            p_NE[:, self.labels_] = 1.0
        p_NE = self.smoothing / experts + (1 - self.smoothing) * p_NE[:, self.experts_E_]
        return np.log(p_NE / p_NE.sum(axis=1, keepdims=True))

    @property
    def penalty(self) -> float:
        return 0.0

    @property
    def n_parameters(self) -> float:
        """Free coefficients and intercepts of the classifier, those of the last step of a pipeline.

        Raises:
            ValueError: it has none.
        """
        if self.classifier_ is None:
            return len(self.experts_E_) - 1
        last: Any = self.classifier_[-1] if isinstance(self.classifier_, Pipeline) else self.classifier_
        seen, remedy = f"{last!r}", "choose by 'cv'"
        check(hasattr(last, "coef_"), "gating", "must have coef_ for its parameters to be counted", seen, remedy)
        return count_coefficients(last)

    def only(self, keep_E: Array) -> Self:
        new = copy(self)
        new.experts_E_ = self.experts_E_[keep_E]
        return new


def weight_names(estimator: Any) -> list[str]:
    """What `fit` calls its sample weights: one name, or none."""
    if isinstance(estimator, Pipeline):
        name, last = estimator.steps[-1]
        return [f"{name}__{inner}" for inner in weight_names(last)]
    return ["sample_weight"] if has_fit_parameter(estimator, "sample_weight") else []
