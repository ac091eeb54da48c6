"""How many free parameters a fitted estimator has, for BIC and AIC."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.linear_model import LogisticRegression

from sparsemix.classic.wrapping.inside import fitted_models_in


def count_parameters(fitted: Any, name: str) -> float:
    """Free coefficients and intercepts that are not 0; weights of a perceptron; values in the leaves of trees.

    What is not 0 counts as the degrees of freedom of the lasso do; ridge penalties and the places of splits do not
    lower or raise the number. An estimator made of others has the parameters of its models.

    Args:
        name: the parameter of ours that brought the estimator.

    Raises:
        ValueError: an estimator of another kind: a kernel machine, neighbours, a process.

    Source: Zou, Hastie & Tibshirani, "On the degrees of freedom of the lasso" (2007).
    """
    if models := fitted_models_in(fitted):
        return sum(count_parameters(model, name) for model in models)
    if isinstance(fitted, DummyClassifier | DummyRegressor):
        return float(np.size(getattr(fitted, "constant_", 0)))
    if hasattr(fitted, "coef_"):
        return _coefficients(fitted)
    if hasattr(fitted, "coefs_"):
        return float(sum(weights.size for weights in (*fitted.coefs_, *fitted.intercepts_)))
    if hasattr(fitted, "tree_"):
        values = fitted.tree_.value.shape[1] * max(1, fitted.tree_.value.shape[2] - 1)
        return float(fitted.tree_.n_leaves * values)
    rule = "must have parameters that can be counted for BIC and AIC"
    remedy = 'compare by cross-validation instead: n_experts="cv"'
    raise ValueError(f"{name}: {rule}, got {type(fitted).__name__}; {remedy}")


def _coefficients(fitted: Any) -> float:
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
