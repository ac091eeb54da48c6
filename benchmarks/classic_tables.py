"""Nested cross-validation: mixtures against their own expert alone, forests, boosting, stacking and voting."""

from __future__ import annotations

import os
import warnings
from typing import Any, NamedTuple

import numpy as np
from classic_problems import PROBLEMS, Array, Problem
from harness import claim, spread
from joblib import Parallel, delayed
from scipy.stats import norm
from sklearn.base import clone
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, log_loss, r2_score
from sklearn.model_selection import GridSearchCV, KFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from sparsemix.classic import MoEClassifier, MoERegressor

OUTER, INNER = 5, 3
OURS, ALONE = "mixture", "its expert alone"


class Search(NamedTuple):
    """A model and the four candidates among which inner folds choose."""

    model: Any
    grid: dict[str, list[Any]]


def searches(classes: bool) -> dict[str, Search]:
    """Those with parameters to choose; stacking and voting combine what they come to."""
    alone, alone_grid = (
        (LogisticRegression(max_iter=1000), "logisticregression__C") if classes else (Ridge(), "ridge__alpha")
    )
    mixture = (MoEClassifier if classes else MoERegressor)(random_state=0)
    forest = (RandomForestClassifier if classes else RandomForestRegressor)(random_state=0)
    boosting = (HistGradientBoostingClassifier if classes else HistGradientBoostingRegressor)(random_state=0)
    return {
        OURS: Search(mixture, {"n_experts": [1, 2, 3, 4]}),
        ALONE: Search(make_pipeline(StandardScaler(), alone), {alone_grid: [0.01, 0.1, 1.0, 10.0]}),
        "random forest": Search(forest, {"min_samples_leaf": [1, 3], "max_features": [0.4, 1.0]}),
        "gradient boosting": Search(boosting, {"learning_rate": [0.05, 0.1], "max_leaf_nodes": [7, 31]}),
    }


def measure(toy: bool) -> dict[str, Any]:
    """All problems, fold by fold; fits run on all cores, one thread each."""
    problems = PROBLEMS[2:3] if toy else PROBLEMS
    jobs = [(problem.name, fold) for problem in problems for fold in range(2 if toy else OUTER)]
    workers = Parallel(n_jobs=1 if toy else os.cpu_count())
    found = list(zip(jobs, workers(delayed(of_fold)(*job) for job in jobs), strict=True))
    rows = [row(problem, [scores for (name, _), scores in found if name == problem.name]) for problem in problems]
    ahead = [better(one) for one in rows if one["regimes"]]
    text = f"problems of {len(ahead)} with regimes on which the mixture beats its expert alone"
    return {
        "outer_folds": OUTER,
        "inner_folds": INNER,
        "problems": rows,
        "claims": [claim(text, spread([float(sum(ahead))]), at_least=len(ahead))],
    }


def better(row: dict[str, Any]) -> bool:
    """In the mean of both measures over the outer folds."""
    mean = {name: found["mean"] for name, found in row["models"].items()}
    return all(mine > alone for mine, alone in zip(mean[OURS], mean[ALONE], strict=True))


def row(problem: Problem, folds: list[dict[str, list[float]]]) -> dict[str, Any]:
    """Mean and standard deviation over the outer folds."""
    measures = ["accuracy", "log-likelihood"] if problem.classes else ["R2", "log-likelihood"]
    models = {}
    for name in folds[0]:
        scores = np.array([fold[name] for fold in folds])
        models[name] = {"mean": scores.mean(axis=0).tolist(), "deviation": scores.std(axis=0, ddof=1).tolist()}
    return {"problem": problem.name, "regimes": problem.regimes, "measures": measures, "models": models}


def of_fold(name: str, fold: int) -> dict[str, list[float]]:
    """Both measures of each model on one outer fold."""
    problem = next(one for one in PROBLEMS if one.name == name)
    X, y = problem.load()
    folds = (StratifiedKFold if problem.classes else KFold)(OUTER, shuffle=True, random_state=0)
    train, test = list(folds.split(X, y))[fold]
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return scores(problem.classes, X[train], y[train], X[test], y[test])


def scores(classes: bool, X: Array, y: Array, X_test: Array, y_test: Array) -> dict[str, list[float]]:
    """Search, fit and score."""
    scoring = "neg_log_loss" if classes else "neg_mean_squared_error"
    found: dict[str, list[float]] = {}
    best = {}
    for name, search in searches(classes).items():
        chosen = GridSearchCV(search.model, search.grid, cv=INNER, scoring=scoring).fit(X, y)
        best[name] = chosen.best_estimator_
        found[name] = score(best[name], -chosen.best_score_, classes, X_test, y_test)
    others = [(name, clone(model)) for name, model in best.items() if name != OURS]
    combined = (StackingClassifier, VotingClassifier) if classes else (StackingRegressor, VotingRegressor)
    for name, kind in zip(("stacking", "voting"), combined, strict=True):
        options = {"voting": "soft"} if kind is VotingClassifier else {}
        model = kind(others, **options)
        variance = 0.0 if classes else held_out_error(model, X, y)
        found[name] = score(model.fit(X, y), variance, classes, X_test, y_test)
    return found


def held_out_error(model: Any, X: Array, y: Array) -> float:
    """Mean squared error of inner folds, as a search states it."""
    return -GridSearchCV(model, {}, cv=INNER, scoring="neg_mean_squared_error", refit=False).fit(X, y).best_score_


def score(model: Any, variance: float, classes: bool, X: Array, y: Array) -> list[float]:
    """Accuracy or R2; and the mean log-likelihood of a row.

    A regressor without a density is given a normal one, with the mean squared error of the inner folds as its variance.
    """
    if classes:
        proba_NK = model.predict_proba(X)
        return [accuracy_score(y, model.predict(X)), -log_loss(y, proba_NK, labels=model.classes_)]
    out_N = model.predict(X)
    if isinstance(model, MoERegressor):
        return [r2_score(y, out_N), float(model.score_samples(X, y).mean())]
    return [r2_score(y, out_N), float(norm.logpdf(y, out_N, np.sqrt(variance)).mean())]
