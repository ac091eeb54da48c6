"""What estimators must be to serve as experts."""

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
        seen = f"the class {one.__name__}" if isinstance(one, type) else type(one).__name__
        usable = hasattr(one, "fit") and hasattr(one, "get_params") and not isinstance(one, type)
        check(usable, "expert", "must be None, experts, an estimator or a list of estimators", seen)
    return given


def check_kind(estimator: Any, num_classes: int | None) -> None:
    """Raise `ValueError` unless the estimator predicts what the targets are."""
    name = type(estimator).__name__
    if num_classes is None:
        check(is_regressor(estimator), "expert", "must be a regressor", name)
        return
    check(is_classifier(estimator), "expert", "must be a classifier", name)
    remedy = f"wrap it: CalibratedClassifierCV({name}())"
    check(hasattr(estimator, "predict_proba"), "expert", "must have predict_proba", name, remedy)
