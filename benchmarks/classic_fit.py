"""Time of a fit against flexmix and SMT: 20 columns, 8 ridge experts, a softmax gate, at equal likelihood."""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from classic_r import flexmix_version, run_r
from harness import claim, ratio, spread
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from sparsemix.classic import MoERegressor

Array = NDArray[np.float64]
COLUMNS, EXPERTS, NOISE = 20, 8, 0.3


class Size(NamedTuple):
    """How many rows, and what the slow ones may take."""

    rows: int
    iterations: int
    """Of flexmix at most: one of 100,000 rows takes it ten seconds and more."""
    smt: bool


class Table(NamedTuple):
    """Columns and target."""

    X: Array
    y: Array


SIZES = (Size(10_000, 200, True), Size(30_000, 20, False), Size(100_000, 20, True))
TOY = (Size(5_000, 3, True),)


def measure(toy: bool) -> dict[str, Any]:
    """Each number of rows, smallest first; then how time grows with them."""
    versions = flexmix_version()
    sizes = [of_rows(size) for size in (TOY if toy else SIZES)]
    first, last = sizes[0], sizes[-1]
    cost = [size["ours"]["seconds_per_iteration"]["median"] / size["rows"] for size in (first, last)]
    text = f"seconds an iteration and row, {last['rows']:,} rows over {first['rows']:,}"
    grown = claim(text, spread([cost[1] / cost[0]]), at_most=1.5)
    return {"versions": versions, "columns": COLUMNS, "experts": EXPERTS, "sizes": sizes, "claims": [grown]}


def of_rows(size: Size) -> dict[str, Any]:
    """One table, fitted by all: ours before the others and after them."""
    table, test = regimes(size.rows, seed=0), regimes(10_000, seed=1)
    before, model = our_fit(table)
    theirs = flexmix_fit(table, size.iterations)
    smt = smt_fit(table, test) if size.smt else None
    reached = np.flatnonzero(model.objective_path_ >= theirs["log_likelihood"])
    to_theirs = our_fit(table, max_iter=int(reached[0]) + 1)[0] if len(reached) else None
    seconds = [before, our_fit(table)[0]]
    ours = {
        "seconds": spread(seconds),
        "iterations": int(model.n_iter_),
        "seconds_per_iteration": spread([second / model.n_iter_ for second in seconds]),
        "seconds_to_flexmix": to_theirs,
        "log_likelihood": float(model.score_samples(table.X, table.y).sum()),
        "error": relative_error(model.predict(test.X), test.y),
    }
    claims = against_flexmix(size, ours, theirs, seconds) + ([] if smt is None else against_smt(size, smt, seconds))
    return {"rows": size.rows, "ours": ours, "flexmix": theirs, "smt": smt, "claims": claims}


def against_flexmix(
    size: Size, ours: Mapping[str, Any], theirs: Mapping[str, Any], seconds: list[float]
) -> list[dict[str, Any]]:
    """Likelihood first: a shorter time is worth something only where it is as high."""
    ended = "to the end" if theirs["iterations"] < size.iterations else f"stopped after {size.iterations} iterations"
    rows = f"{size.rows:,} rows, flexmix {ended}"
    ahead = ours["log_likelihood"] - theirs["log_likelihood"]
    each = theirs["seconds"] / theirs["iterations"] / ours["seconds_per_iteration"]["median"]
    whole = ratio([theirs["seconds"]] * len(seconds), seconds)
    found = [
        claim(f"{rows}: our log-likelihood less its, a row", spread([ahead / size.rows]), at_least=0),
        claim(f"{rows}: its time over that of our whole fit", whole),
        claim(f"{rows}: its time of an iteration over ours", spread([each])),
    ]
    if ours["seconds_to_flexmix"] is not None:
        equal = theirs["seconds"] / ours["seconds_to_flexmix"]
        found.append(claim(f"{rows}: its time over ours until its likelihood", spread([equal]), at_least=10))
    return found


def against_smt(size: Size, smt: Mapping[str, float], seconds: list[float]) -> list[dict[str, Any]]:
    """SMT has no likelihood; errors on other rows are in the result."""
    faster = ratio([smt["seconds"]] * len(seconds), seconds)
    return [claim(f"{size.rows:,} rows: SMT's time over that of our whole fit", faster, at_least=10)]


def regimes(rows: int, seed: int) -> Table:
    """Linear laws, one for each expert of a softmax gate; the seed draws the rows, not the laws."""
    law, random = np.random.default_rng(0), np.random.default_rng([1, seed])
    gate_ED, coef_ED = 2 * law.normal(size=(EXPERTS, COLUMNS)), law.normal(size=(EXPERTS, COLUMNS))
    X = random.normal(size=(rows, COLUMNS))
    owner_N = (X @ gate_ED.T + random.gumbel(size=(rows, EXPERTS))).argmax(axis=1)
    return Table(X, (X * coef_ED[owner_N]).sum(axis=1) + NOISE * random.normal(size=rows))


def our_fit(table: Table, max_iter: int = 200) -> tuple[float, MoERegressor]:
    """Seconds, and the model."""
    model = MoERegressor(n_experts=EXPERTS, max_iter=max_iter)
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # where it stops at flexmix's likelihood
        model.fit(*table)
    return time.perf_counter() - began, model


def flexmix_fit(table: Table, iterations: int) -> dict[str, float]:
    """Seconds without reading the table, iterations, log-likelihood, components."""
    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder, "data"), Path(folder, "out")
        np.column_stack(table).T.tofile(data)
        run_r("classic_fit.R", data, len(table.y), COLUMNS, EXPERTS, iterations, out)
        numbers = np.loadtxt(out)
    return dict(zip(("seconds", "iterations", "log_likelihood", "components"), numbers.tolist(), strict=True))


def smt_fit(table: Table, test: Table) -> dict[str, float]:
    """SMT's mixture of least-squares experts: seconds, and the error on other rows."""
    from smt.applications import MOE

    np.random.seed(0)  # of its clustering
    model = MOE(allow=["LS"], n_clusters=EXPERTS, xt=table.X, yt=table.y[:, None])
    began = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        model.train()
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "error": relative_error(model.predict_values(test.X)[:, 0], test.y)}


def relative_error(predicted_N: Array, y_N: Array) -> float:
    """Root mean squared error over the deviation of the target."""
    return float(np.sqrt(np.mean((predicted_N - y_N) ** 2)) / y_N.std())
