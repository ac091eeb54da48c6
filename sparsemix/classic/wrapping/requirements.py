"""What users' estimators must be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sklearn.base import is_classifier, is_regressor

from sparsemix.checks import check


def estimators_of(estimator: Any) -> Sequence[Any]:
    """The estimators given: those of a list, or the one for all experts.

    Raises:
        ValueError: an empty list, or something that is no estimator.
    """
    given = estimator if isinstance(estimator, list | tuple) else [estimator]
    check(len(given) > 0, "expert", "must name at least one estimator", "an empty list")
    for one in given:
        check(_is_estimator(one), "expert", "must be None, experts, an estimator or a list of estimators", _kind(one))
    return given


def check_regressor(estimator: Any, name: str) -> None:
    """Raise `ValueError` unless the estimator predicts numbers; `name` is the parameter that brought it."""
    check(_is_estimator(estimator) and is_regressor(estimator), name, "must be a regressor", _kind(estimator))


def check_classifier(estimator: Any, name: str) -> None:
    """Raise `ValueError` unless the estimator says probabilities of classes."""
    kind = _kind(estimator)
    check(_is_estimator(estimator) and is_classifier(estimator), name, "must be a classifier", kind)
    remedy = f"wrap it: CalibratedClassifierCV({kind}())"
    check(hasattr(estimator, "predict_proba"), name, "must have predict_proba", kind, remedy)


def _is_estimator(value: Any) -> bool:
    return hasattr(value, "fit") and hasattr(value, "get_params") and not isinstance(value, type)


def _kind(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
