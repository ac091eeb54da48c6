"""How many coefficients of a fitted linear model are free."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression


def count_coefficients(fitted: Any) -> float:
    """Coefficients and intercepts that are not 0; of a softmax, in which one class is redundant, without that class."""
    softmax = isinstance(fitted, LogisticRegression | LinearDiscriminantAnalysis) and len(fitted.classes_) > 2
    most = len(fitted.classes_) - 1 if softmax else np.inf
    return _free(fitted.coef_, most) + _free(getattr(fitted, "intercept_", 0.0), most)


def _free(values: Any, most: float) -> float:
    """What is not 0, at most so much in each column; intercepts are one column."""
    if sparse.issparse(values):
        values = values.toarray()
    values = np.asarray(values)
    column_KD = values if values.ndim == 2 else values.reshape(-1, 1)
    return float(np.minimum(np.count_nonzero(column_KD, axis=0), most).sum())
