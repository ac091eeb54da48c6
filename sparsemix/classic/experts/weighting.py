"""How sample weights get into any estimator: as an argument of `fit`, or by choosing rows."""

from __future__ import annotations

from inspect import signature
from typing import Any

import numpy as np
from sklearn import get_config
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing
from sklearn.utils.metadata_routing import get_routing_for_object
from sklearn.utils.validation import has_fit_parameter

from sparsemix.classic.parts import Array

LARGEST_SEED = np.iinfo(np.int32).max


def fresh(estimator: Any) -> Any:
    """`clone`, of which type checkers know less than we do: it gives back what it is given."""
    return clone(estimator)


def seeded(estimator: Any, seed: int) -> Any:
    """A clone whose random states that are None, nested ones too, are seeds drawn from `seed`."""
    new = fresh(estimator)
    random = np.random.RandomState(seed)
    names = [name for name in sorted(new.get_params()) if name == "random_state" or name.endswith("__random_state")]
    seeds = {name: random.randint(LARGEST_SEED) for name in names}
    return new.set_params(**{name: value for name, value in seeds.items() if new.get_params()[name] is None})


def fit_weighted(estimator: Any, X: Any, y: Array, weight_N: Array, seed: int) -> Any:
    """A clone fitted to weighted rows; of estimators that take no weights, to rows chosen by `systematic`."""
    argument = weight_argument(estimator)
    if argument is not None:
        return fresh(estimator).fit(X, y, **{argument: weight_N})
    chosen = systematic(weight_N, seed)
    return fresh(estimator).fit(_safe_indexing(X, chosen), y[chosen])


def partial_fit_weighted(estimator: Any, X: Any, y: Array, weight_N: Array, seed: int, **arguments: Any) -> None:
    """Teach an estimator, in place, weighted rows; chosen by `systematic` where `partial_fit` takes no weights."""
    if "sample_weight" in signature(estimator.partial_fit).parameters:
        estimator.partial_fit(X, y, sample_weight=weight_N, **arguments)
        return
    chosen = systematic(weight_N, seed)
    estimator.partial_fit(_safe_indexing(X, chosen), y[chosen], **arguments)


def weight_argument(estimator: Any) -> str | None:
    """The argument of `fit` that takes sample weights, `step__sample_weight` for a pipeline; None: there is none."""
    if has_fit_parameter(estimator, "sample_weight"):
        inside = getattr(estimator, "estimator", None)  # meta-estimators name the argument and refuse it later
        return "sample_weight" if inside is None or has_fit_parameter(inside, "sample_weight") else None
    if get_config()["enable_metadata_routing"]:
        routed = get_routing_for_object(estimator).consumes("fit", ["sample_weight"])
        return "sample_weight" if routed else None
    if isinstance(estimator, Pipeline):
        name, last = estimator.steps[-1]
        argument = weight_argument(last)
        return None if argument is None else f"{name}__{argument}"
    if isinstance(estimator, GridSearchCV | RandomizedSearchCV):
        return weight_argument(estimator.estimator)
    if isinstance(estimator, TransformedTargetRegressor) and estimator.regressor is not None:
        return weight_argument(estimator.regressor)
    return None


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
