"""How sample weights get into any estimator: as an argument of `fit`, or by choosing rows."""

from __future__ import annotations

from inspect import signature
from typing import Any

import numpy as np
from sklearn import get_config
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import StackingClassifier, StackingRegressor, VotingClassifier, VotingRegressor
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing
from sklearn.utils.metadata_routing import get_routing_for_object

from sparsemix.classic.parts import Array
from sparsemix.classic.wrapping.inside import models_in
from sparsemix.classic.wrapping.seeding import fresh

NAME = "sample_weight"
PASSES_ANY = GridSearchCV | RandomizedSearchCV | TransformedTargetRegressor
"""Whose `fit` hands what it does not name to the model inside, under whatever name."""
PASSES_WEIGHTS = VotingClassifier | VotingRegressor | StackingClassifier | StackingRegressor
"""Whose `fit` hands `sample_weight`, which it does not name, to all models inside."""


def fit_weighted(estimator: Any, X: Any, y: Array, weight_N: Array, seed: int) -> Any:
    """A clone fitted to weighted rows; of estimators that take no weights, to rows chosen by `systematic`."""
    argument = weight_argument(estimator, "fit")
    if argument is not None:
        return fresh(estimator).fit(X, y, **{argument: weight_N})
    chosen = systematic(weight_N, seed)
    return fresh(estimator).fit(_safe_indexing(X, chosen), y[chosen])


def partial_fit_weighted(estimator: Any, X: Any, y: Array, weight_N: Array, seed: int, **arguments: Any) -> None:
    """Teach an estimator, in place, weighted rows; chosen by `systematic` where `partial_fit` takes no weights."""
    argument = weight_argument(estimator, "partial_fit")
    if argument is not None:
        estimator.partial_fit(X, y, **{argument: weight_N}, **arguments)
        return
    chosen = systematic(weight_N, seed)
    estimator.partial_fit(_safe_indexing(X, chosen), y[chosen], **arguments)


def weight_argument(estimator: Any, method: str) -> str | None:
    """The argument of a method, `fit` or `partial_fit`, by which weights reach the model; None: there is none.

    It is `step__sample_weight` for a pipeline. Under metadata routing a model inside another estimator gets weights
    unless it was told not to; where it was told nothing scikit-learn asks for a word.
    """
    if get_config()["enable_metadata_routing"]:
        models = models_in(estimator)
        takes = all(_asks(model, method) for model in models) if models else _names(estimator, method)
        return NAME if takes else None
    inside = {weight_argument(model, method) for model in models_in(estimator)}
    if _names(estimator, method) or isinstance(estimator, PASSES_WEIGHTS):
        return NAME if inside <= {NAME} else None  # meta-estimators name the argument and refuse it later
    if isinstance(estimator, PASSES_ANY):
        return inside.pop() if inside else NAME
    argument = inside.pop() if isinstance(estimator, Pipeline) else None
    return None if argument is None else f"{estimator.steps[-1][0]}__{argument}"


def _names(estimator: Any, method: str) -> bool:
    return NAME in signature(getattr(estimator, method)).parameters


def _asks(model: Any, method: str) -> bool:
    """Whether all models inside a model take weights and none was told, by `set_fit_request`, to go without them."""
    if models := models_in(model):
        return all(_asks(one, method) for one in models)
    requests = getattr(get_routing_for_object(model), method, None)  # None: of a router with a model of its own
    refused = requests is not None and requests.requests.get(NAME) not in (None, True)
    return _names(model, method) and not refused


def systematic(weight_N: Array, seed: int) -> Array:
    """Indexes of rows, each chosen as often as its weight says, up to less than one; sorted.

    A weight of 1 is a row taken once and one of 2 a row taken twice, always; a weight of 0.3 a row taken with
    probability 0.3, at equal distances along a random order, which varies less than independent draws. Where all
    weights are below 1, they are scaled so that the largest is 1.

    Source: Madow & Madow, "On the theory of systematic sampling" (1944).
    """
    random = np.random.RandomState(seed)
    order_N = random.permutation(len(weight_N))
    reach_N = np.append(0.0, np.cumsum(weight_N[order_N] / min(1.0, weight_N.max()))) + random.uniform()
    return np.sort(np.repeat(order_N, np.diff(np.floor(reach_N)).astype(int)))
