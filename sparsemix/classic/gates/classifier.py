"""A gate of the user's: any classifier that says probabilities, fitted on responsibilities as soft labels."""

from __future__ import annotations

from copy import copy, deepcopy
from typing import Any, NamedTuple, Self

import numpy as np
from sklearn.utils import Tags, _safe_indexing, get_tags
from sklearn.utils.validation import _num_samples

from sparsemix.checks import check
from sparsemix.classic.parts import Array, Gate, Table
from sparsemix.classic.wrapping.counting import count_parameters
from sparsemix.classic.wrapping.requirements import check_classifier
from sparsemix.classic.wrapping.seeding import fresh
from sparsemix.classic.wrapping.weighting import systematic, weight_argument

LEAST = 1e-3
"""Labels of less than this share of a row's largest are not fitted."""
SEED = 0
"""Of the rows drawn for classifiers without weights: one for all M steps, so that EM compares fits and not draws."""


class ClassifierGate(Gate):
    """p(e | x) by a classifier that is fitted anew in each M step.

    It gets each row once for each expert, with the expert's responsibility as weight, by `sample_weight` (of a
    pipeline, that of its last step; under metadata routing, unless it was told to go without). A classifier that takes
    no weights, such as nearest neighbours, gets each row with the label of its most responsible expert, as often as
    the row's weight says: a row of weight 2 twice, of weight 0.3 with probability 0.3, of weight 0 never.

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
        check_classifier(self.estimator, "estimator")
        tags = super().__sklearn_tags__()
        tags.input_tags = get_tags(self.estimator).input_tags
        return tags

    def started(self, table: Table, n_experts: int) -> Self:
        check_classifier(self.estimator, "estimator")
        check(0 < self.smoothing < 1, "smoothing", "must be in (0, 1)", self.smoothing)
        new = copy(self)
        new.classifier_, new.labels_, new.experts_E_ = None, np.arange(0), np.arange(n_experts)
        return new

    @property
    def exact(self) -> bool:
        return False

    def updated(self, table: Table, responsibility_NE: Array) -> Self:
        lesson = _lesson(table.weight_N, responsibility_NE, weight_argument(self.estimator, "fit"))
        new = copy(self)
        new.experts_E_, new.labels_ = np.arange(responsibility_NE.shape[1]), np.unique(lesson.label_R)
        new.classifier_ = None
        if len(new.labels_) > 1:
            X = _safe_indexing(table.X, lesson.row_R)
            new.classifier_ = fresh(self.estimator).fit(X, lesson.label_R, **lesson.weights)
        return new

    @property
    def online(self) -> bool:
        return hasattr(self.estimator, "partial_fit")

    def partially_updated(self, table: Table, responsibility_NE: Array, keep: float) -> Self:
        """The classifier's own `partial_fit`, which forgets as it does: `keep` does not reach it.

        Where rows have come to an expert that the fit did not see, the classifier is taught anew: none learns a class
        later.
        """
        lesson = _lesson(table.weight_N, responsibility_NE, weight_argument(self.estimator, "partial_fit"))
        new = copy(self)
        label_R = self.experts_E_[lesson.label_R]
        if self.classifier_ is not None and np.isin(label_R, self.labels_).all():
            new.classifier_ = deepcopy(self.classifier_)
        else:
            label_R, new.classifier_ = lesson.label_R, fresh(self.estimator)
            new.labels_ = new.experts_E_ = np.arange(responsibility_NE.shape[1])
        X = _safe_indexing(table.X, lesson.row_R)
        new.classifier_.partial_fit(X, label_R, classes=new.labels_, **lesson.weights)
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
        """Those of the classifier, `count_parameters`."""
        if self.classifier_ is None:
            return len(self.experts_E_) - 1
        return count_parameters(self.classifier_, "gating")

    def only(self, keep_E: Array) -> Self:
        new = copy(self)
        new.experts_E_ = self.experts_E_[keep_E]
        return new


class Lesson(NamedTuple):
    """What a classifier is fitted to."""

    row_R: Array
    label_R: Array
    weights: dict[str, Array]
    """Arguments of its fit."""


def _lesson(weight_N: Array, responsibility_NE: Array, argument: str | None) -> Lesson:
    """Soft labels where an argument takes weights, otherwise hard ones."""
    if argument is None:
        row_R = systematic(weight_N, SEED)
        return Lesson(row_R, responsibility_NE[row_R].argmax(axis=1), {})
    weight_NE = weight_N[:, None] * responsibility_NE
    taken_NE = (weight_NE > 0) & (responsibility_NE >= LEAST * responsibility_NE.max(axis=1, keepdims=True))
    row_R, label_R = np.nonzero(taken_NE)
    return Lesson(row_R, label_R, {argument: weight_NE[taken_NE]})
