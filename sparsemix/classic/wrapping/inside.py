"""What is inside estimators that are made of others."""

from __future__ import annotations

from typing import Any

from sklearn.pipeline import Pipeline


def models_in(estimator: Any) -> list[Any]:
    """The models, not fitted, that an estimator hands its rows to and predicts by; none: it is a model itself."""
    if isinstance(estimator, Pipeline):
        return [estimator.steps[-1][1]]
    pairs = getattr(estimator, "estimators", None) or []
    named = [pair[-1] for pair in pairs if isinstance(pair, tuple)]
    others = [getattr(estimator, name, None) for name in ("estimator", "regressor", "final_estimator")]
    return [one for one in (*named, *others) if hasattr(one, "fit")]


def fitted_models_in(fitted: Any) -> list[Any]:
    """The same of a fitted estimator: its fitted models."""
    if isinstance(fitted, Pipeline):
        return [fitted.steps[-1][1]]
    if hasattr(fitted, "estimators_"):  # ensembles keep the model that they copied as `estimator_`
        final = [fitted.final_estimator_] if hasattr(fitted, "final_estimator_") else []
        return [*_flat(fitted.estimators_), *final]
    names = ("best_estimator_", "regressor_", "estimator_")
    return [getattr(fitted, name) for name in names if hasattr(fitted, name)]


def _flat(models: Any) -> list[Any]:
    """A list as it is, since numpy would unpack the pipelines in it; boosting's array of trees as a list."""
    return list(models) if isinstance(models, list) else models.ravel().tolist()
