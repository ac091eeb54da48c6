"""How many free parameters a fitted estimator has, for BIC and AIC."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.compose import TransformedTargetRegressor
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.pipeline import Pipeline

from sparsemix.checks import check
from sparsemix.classic.experts.gaussian_process import Process
from sparsemix.classic.numeric.coefficients import count_coefficients


def count_parameters(fitted: Any) -> float:
    """Free coefficients and intercepts that are not 0; weights of a perceptron; values in the leaves of trees.

    What is not 0 counts as the degrees of freedom of the lasso do; ridge penalties and the places of splits do not
    lower or raise the number.

    Raises:
        ValueError: an estimator of another kind: a kernel machine, neighbours, a process.

    Source: Zou, Hastie & Tibshirani, "On the degrees of freedom of the lasso" (2007).
    """
    if isinstance(fitted, Pipeline):
        return count_parameters(fitted.steps[-1][1])
    if isinstance(fitted, Process):
        return count_parameters(fitted.fitted)
    if isinstance(fitted, GridSearchCV | RandomizedSearchCV):
        return count_parameters(fitted.best_estimator_)
    if isinstance(fitted, TransformedTargetRegressor):
        return count_parameters(fitted.regressor_)
    if isinstance(fitted, DummyClassifier | DummyRegressor):
        return float(np.size(getattr(fitted, "constant_", 0)))
    if hasattr(fitted, "coef_"):
        return count_coefficients(fitted)
    if hasattr(fitted, "coefs_"):
        return float(sum(weights.size for weights in (*fitted.coefs_, *fitted.intercepts_)))
    if hasattr(fitted, "tree_"):
        values = fitted.tree_.value.shape[1] * max(1, fitted.tree_.value.shape[2] - 1)
        return float(fitted.tree_.n_leaves * values)
    if hasattr(fitted, "estimators_"):
        return sum(count_parameters(one) for one in np.ravel(fitted.estimators_))
    remedy = 'compare by cross-validation instead: n_experts="cv"'
    check(False, "expert", "must have parameters that can be counted for BIC and AIC", type(fitted).__name__, remedy)
    raise AssertionError
