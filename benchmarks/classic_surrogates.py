"""Mixtures of Gaussian processes on SMT's test functions: SMT, egobox and ours on the same points, default settings."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from harness import claim, spread
from joblib import Parallel, delayed
from numpy.typing import NDArray
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, Kernel, WhiteKernel
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from threadpoolctl import threadpool_limits

from sparsemix.classic import EstimatorExperts, MoERegressor, SoftmaxGate

Array = NDArray[np.float64]
DESIGNS, TEST_ROWS = range(401, 411), 2_000
"""Seeds of the designs; those below 400 were looked at when our settings were chosen."""
NUGGET, ALPHA = 1e-15, 1e-12
"""Added to the diagonal of correlations, so that they can be factored, as SMT and egobox do; and, where scikit-learn's
search is lost with so little, to that of covariances of targets of variance 1."""
DEFAULTS, CHOSEN, ALONE = "sparsemix, defaults", "sparsemix, 1 or 2 chosen", "one process"


class Function(NamedTuple):
    """A problem of SMT, and the number of points to learn from."""

    name: str
    points: int
    limits: Array
    values: Callable[[Array], Array]


def measure(toy: bool) -> dict[str, Any]:
    """The median over designs of each contestant's error, function by function."""
    functions, designs = (smt_functions()[1:2], DESIGNS[:2]) if toy else (smt_functions(), DESIGNS)
    jobs = [(function.name, design) for function in functions for design in designs]
    workers = Parallel(n_jobs=1 if toy else os.cpu_count())
    found = dict(zip(jobs, workers(delayed(errors)(*job) for job in jobs), strict=True))
    rows = [row(function, [found[function.name, design] for design in designs]) for function in functions]
    return {"designs": list(designs), "functions": rows, "claims": [won(rows, *pair) for pair in COMPARED]}


def won(rows: list[dict[str, Any]], own: str, name: str) -> dict[str, Any]:
    """On how many functions our median is lower, over the designs that the other could fit."""
    count = sum(lower(one["errors"][own], one["errors"][name]) for one in rows)
    text = f"functions of {len(rows)} on which the median error of {own} is below that of {name}"
    return claim(text, spread([float(count)]), at_least=len(rows))


def lower(mine: list[float | None], theirs: list[float | None]) -> bool:
    """Whether our median is, over the designs of which there are errors of both; yes where the other has none."""
    both = [pair for pair in zip(mine, theirs, strict=True) if None not in pair]
    own, other = np.median(np.array(both or [(0.0, 1.0)], dtype=float), axis=0)
    return bool(own < other)


def row(function: Function, found: list[Mapping[str, float | None]]) -> dict[str, Any]:
    """Medians over the designs that a contestant could fit, and how many it could not."""
    errors = {name: [one[name] for one in found] for name in found[0]}
    fitted = {name: [value for value in values if value is not None] for name, values in errors.items()}
    return {
        "function": function.name,
        "columns": len(function.limits),
        "points": function.points,
        "median": {name: float(np.median(values)) if values else None for name, values in fitted.items()},
        "failed": {name: len(found) - len(values) for name, values in fitted.items()},
        "errors": errors,
    }


def smt_functions() -> list[Function]:
    """The piecewise one that SMT tests its mixture with, and its problems of up to ten columns."""
    from smt import problems

    made = {
        "LpNorm": problems.LpNorm(ndim=2),
        "Branin": problems.Branin(ndim=2),
        "TensorProduct tanh": problems.TensorProduct(ndim=2, func="tanh"),
        "TensorProduct exp": problems.TensorProduct(ndim=2, func="exp"),
        "TensorProduct cos": problems.TensorProduct(ndim=2, func="cos"),
        "TensorProduct gaussian": problems.TensorProduct(ndim=2, func="gaussian"),
        "Rosenbrock": problems.Rosenbrock(ndim=2),
        "Sphere": problems.Sphere(ndim=2),
        "RobotArm": problems.RobotArm(ndim=2),
        "CantileverBeam": problems.CantileverBeam(ndim=3),
        "WeldedBeam": problems.WeldedBeam(ndim=3),
        "WaterFlow": problems.WaterFlow(ndim=8),
        "WingWeight": problems.WingWeight(ndim=10),
    }
    found = [
        Function(name, max(40, 10 * len(problem.xlimits)), np.asarray(problem.xlimits, dtype=float), problem)
        for name, problem in made.items()
    ]
    return [Function("piecewise, 1 column", 40, np.array([[0.0, 1.0]]), piecewise), *found]


def piecewise(X: Array) -> Array:
    """x^2 below 0.4, 3 x + 1 below 0.8, then sin 10 x."""
    return np.select([X < 0.4, X < 0.8], [X**2, 3 * X + 1], np.sin(10 * X))


def errors(name: str, design: int) -> dict[str, float | None]:
    """Root mean squared error of each over the deviation of the function; None where it raised."""
    from smt.sampling_methods import LHS

    function = next(one for one in smt_functions() if one.name == name)
    X = LHS(xlimits=function.limits, criterion="ese", seed=design)(function.points)
    low_D, high_D = function.limits.T
    test = np.random.default_rng(1000 + design).uniform(low_D, high_D, (TEST_ROWS, len(low_D)))
    y, expected = function.values(X)[:, 0], function.values(test)[:, 0]
    with threadpool_limits(1), contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {who: error(predict, X, y, test, expected, design) for who, predict in CONTESTANTS.items()}


def error(predict: Predict, X: Array, y: Array, test: Array, expected: Array, seed: int) -> float | None:
    """Of one contestant on one design."""
    try:
        predicted = predict(X, y, test, seed)
    except Exception:  # whatever a library raises where it cannot fit a design, which is counted; but ours must not
        if predict in OURS_ALL.values():
            raise
        return None
    return float(np.sqrt(np.mean((predicted - expected) ** 2)) / expected.std())


def process(columns: int) -> Pipeline:
    """A Gaussian process of the kind that SMT and egobox use: squared exponential, scaled by column, no noise.

    Theirs estimate a constant mean, ordinary kriging; the second constant of the kernel is the variance of ours.
    """
    return scaled(RBF(np.ones(columns), (1e-2, 1e3)) + WhiteKernel(NUGGET, "fixed"), alpha=0.0)


def scaled(correlation: Kernel, alpha: float) -> Pipeline:
    """A process with this correlation, a variance and a mean, on columns and targets of one scale."""
    kernel = ConstantKernel(1.0, (1e-3, 1e6)) * correlation + ConstantKernel(1.0, (1e-6, 1e3))
    return make_pipeline(StandardScaler(), GaussianProcessRegressor(kernel, alpha=alpha, normalize_y=True))


def defaults(X: Array, y: Array, test: Array, seed: int) -> Array:
    """A mixture of the process that is told nothing else: two experts, a linear gate."""
    return MoERegressor(process(X.shape[1]), random_state=seed).fit(X, y).predict(test)


def chosen(X: Array, y: Array, test: Array, seed: int) -> Array:
    """One process or two, by the cross-validated error: `n_experts="cv"` would compare densities instead.

    The gate is quadratic: its regions include those of Gaussian clusters.
    """
    experts = EstimatorExperts(process(X.shape[1]), variance_floor=1e-10)
    gate = SoftmaxGate(features=make_pipeline(StandardScaler(), PolynomialFeatures(2, include_bias=False)))
    model = MoERegressor(experts, gating=gate, max_iter=10, random_state=seed)
    return GridSearchCV(model, {"n_experts": [1, 2]}, scoring="neg_mean_squared_error").fit(X, y).predict(test)


def one_process(X: Array, y: Array, test: Array, seed: int) -> Array:
    """The same process without us, but for its nugget: scikit-learn's own search for its hyperparameters."""
    return scaled(RBF(np.ones(X.shape[1]), (1e-2, 1e3)), ALPHA).fit(X, y).predict(test)


def smt(X: Array, y: Array, test: Array, seed: int) -> Array:
    """SMT's mixture of krigings, two clusters."""
    from smt.applications import MOE

    np.random.seed(seed)  # of its clustering
    model = MOE(allow=["KRG"], xt=X, yt=y[:, None])
    model.train()
    return model.predict_values(test)[:, 0]


def egobox(X: Array, y: Array, test: Array, seed: int, clusters: int = 1) -> Array:
    """egobox's mixture, which has one cluster unless asked for more."""
    import egobox

    return egobox.GpMix(n_clusters=clusters, seed=seed).fit(X, y[:, None]).predict(test).ravel()


Predict = Callable[[Array, Array, Array, int], Array]
THEIRS: dict[str, Predict] = {
    "SMT MOE": smt,
    "egobox": egobox,
    "egobox, 2 clusters": partial(egobox, clusters=2),
}
OURS_ALL: dict[str, Predict] = {DEFAULTS: defaults, CHOSEN: chosen}
CONTESTANTS: dict[str, Predict] = {**OURS_ALL, ALONE: one_process, **THEIRS}
COMPARED = tuple(product(OURS_ALL, THEIRS))
