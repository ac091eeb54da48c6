"""Mixtures of Gaussian processes on SMT's test functions: SMT, egobox and ours on the same points, default settings."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from harness import claim, spread
from joblib import Parallel, delayed
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from sparsemix.classic import MoERegressor

Array = NDArray[np.float64]
DESIGNS, TEST_ROWS = 10, 2_000
OURS = "sparsemix"


class Function(NamedTuple):
    """A problem of SMT, and the number of points to learn from."""

    name: str
    points: int
    limits: Array
    values: Callable[[Array], Array]


def measure(toy: bool) -> dict[str, Any]:
    """The median over designs of each contestant's error, function by function."""
    functions, designs = (smt_functions()[:2], 2) if toy else (smt_functions(), DESIGNS)
    jobs = [(function.name, design) for function in functions for design in range(designs)]
    workers = Parallel(n_jobs=1 if toy else os.cpu_count())
    found = dict(zip(jobs, workers(delayed(errors)(*job) for job in jobs), strict=True))
    rows = [row(function, [found[function.name, design] for design in range(designs)]) for function in functions]
    lower = [sum(one["median"][OURS] < one["median"][name] for one in rows) for name in THEIRS]
    claims = [
        claim(f"functions of {len(rows)} where our median error is below that of {name}", spread([float(count)]), at_least=len(rows))
        for name, count in zip(THEIRS, lower, strict=True)
    ]
    return {"designs": designs, "functions": rows, "claims": claims}


def row(function: Function, found: list[Mapping[str, float | None]]) -> dict[str, Any]:
    """Medians over the designs that a contestant could fit, and how many it could not."""
    errors = {name: [one[name] for one in found if one[name] is not None] for name in found[0]}
    return {
        "function": function.name,
        "columns": len(function.limits),
        "points": function.points,
        "median": {name: float(np.median(values)) if values else None for name, values in errors.items()},
        "failed": {name: len(found) - len(values) for name, values in errors.items()},
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
        return {
            who: error(predict, X, y, test, expected, design) for who, predict in (THEIRS | OTHERS).items()
        }


def error(predict: Callable[..., Array], X: Array, y: Array, test: Array, expected: Array, seed: int) -> float | None:
    """Of one contestant on one design."""
    try:
        predicted = predict(X, y, test, seed)
    except Exception as problem:  # whatever a library raises: a design that it cannot fit is counted
        if predict is ours:
            raise
        del problem
        return None
    return float(np.sqrt(np.mean((predicted - expected) ** 2)) / expected.std())
