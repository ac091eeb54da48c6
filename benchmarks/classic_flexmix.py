"""flexmix on its own example data: the likelihood that each reaches, and the number of components by BIC."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from classic_r import flexmix_version, run_r
from harness import claim, spread
from numpy.typing import NDArray
from scipy.special import expit, log_softmax, logsumexp
from scipy.stats import norm

from sparsemix.checks import check
from sparsemix.classic import (
    ConstantGate,
    LinearExperts,
    LogisticExperts,
    MoEClassifier,
    MoERegressor,
    SoftmaxGate,
)

Array = NDArray[np.float64]
Numbers = dict[str, float]
AGREE = 1e-6
"""Relative difference of the likelihood of flexmix's parameters, in its density and in ours."""
STARTS = 10


class Case(NamedTuple):
    """One model of flexmix that ours can express."""

    name: str
    words: str
    targets: int = 1
    binary: bool = False
    gated: bool = False


CASES = (
    Case("NPreg", "NPreg, yn ~ x + x^2"),
    Case("NPreg_gate", "NPreg, yn ~ x + x^2, gate x + x^2", gated=True),
    Case("NregFix", "NregFix, y ~ x1 + x2 + w"),
    Case("NregFix_gate", "NregFix, y ~ x1 + x2 + w, gate x1 + x2 + w", gated=True),
    Case("Nclus", "Nclus, two targets, no columns", targets=2),
    Case("NPreg_binary", "NPreg, yb ~ x", binary=True),
    Case("trypanosome", "trypanosome, Dead ~ Dose", binary=True),
)


def measure(toy: bool) -> dict[str, Any]:
    """Fit all cases with both."""
    versions = flexmix_version()
    largest, starts, cases = (2, 1, CASES[:1]) if toy else (6, STARTS, CASES)
    with tempfile.TemporaryDirectory() as folder:
        run_r("classic_flexmix.R", folder, largest, starts, *(case.name for case in cases))
        found = [compared(case, Path(folder), starts) for case in cases]
    return {"versions": versions, "starts": starts, "largest": largest, "cases": found}


def compared(case: Case, folder: Path, starts: int) -> dict[str, Any]:
    """Both on one case, with 1, 2, ... components."""
    X, y = read_data(folder / f"{case.name}_data.csv", case)
    theirs = read_fits(folder / f"{case.name}_fits.csv")
    rows = [of_size(case, X, y, components, fit, starts) for components, fit in theirs.items()]
    their_best, our_best = (min(rows, key=lambda row: row[key]) for key in ("their_bic", "our_bic"))
    ahead = their_best["our_log_likelihood"] - their_best["their_log_likelihood"]
    beyond = our_best["components"] - their_best["components"]
    text = f"{case.words}; {their_best['components']} components"
    return {
        "case": case.words,
        "rows": len(y),
        "fits": rows,
        "claims": [
            claim(f"{text}: our log-likelihood less flexmix's", spread([ahead]), at_least=-AGREE),
            claim(f"{text}: our components by BIC less flexmix's", spread([beyond]), at_least=0, at_most=0),
        ],
    }


def read_data(path: Path, case: Case) -> tuple[Array, Array]:
    """Columns and targets; no column at all is one that is constant."""
    table = np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2)
    X, y = table[:, : -case.targets], table[:, -case.targets :]
    return (X if X.shape[1] else np.zeros((len(y), 1))), (y if case.targets > 1 else y[:, 0])


def read_fits(path: Path) -> dict[int, list[Numbers]]:
    """By components asked for: the numbers of the mixture, then those of each component."""
    fits: dict[int, list[Numbers]] = {}
    with path.open(encoding="utf-8") as file:
        for line in csv.DictReader(file):
            parts = fits.setdefault(int(line["asked"]), [])
            while len(parts) <= int(line["component"]):
                parts.append({})
            parts[int(line["component"])][line["name"]] = float(line["value"])
    return fits


def of_size(case: Case, X: Array, y: Array, components: int, theirs: list[Numbers], starts: int) -> dict[str, Any]:
    """Log-likelihood and BIC of both with one number of components, by one formula."""
    model = our_model(case, components, starts).fit(X, y)
    mixture, parts = theirs[0], theirs[1:]
    ours = float(model.score_samples(X, y).sum())
    must_be_same(case.name, log_likelihood(case, y, *read_ours(case, model, X)), ours)
    must_be_same(case.name, log_likelihood(case, y, *read_theirs(case, parts, X)), mixture["log_likelihood"])
    return {
        "components": components,
        "our_log_likelihood": ours,
        "their_log_likelihood": mixture["log_likelihood"],
        "our_bic": float(model.bic(X, y)),
        "their_bic": mixture["bic"],
    }


def must_be_same(name: str, formula: float, stated: float) -> None:
    """The likelihood that a library states must be that of its parameters in the formula."""
    off = abs(formula / stated - 1)
    check(off <= AGREE, name, f"log-likelihoods must agree within {AGREE} to be compared", f"a difference of {off}")


def our_model(case: Case, components: int, starts: int) -> MoERegressor | MoEClassifier:
    """The same model, not regularised."""
    options = {
        "n_experts": components,
        "gating": SoftmaxGate(alpha=0.0) if case.gated else ConstantGate(),
        "n_init": starts,
        "max_iter": 1000,
        "tol": 1e-8,
        "random_state": 0,
    }
    if case.binary:
        return MoEClassifier(LogisticExperts(alpha=1e-8), **options)
    return MoERegressor(LinearExperts(alpha=0.0), **options)


def log_likelihood(case: Case, y: Array, log_gate_NE: Array, out_NEM: Array, variance_NEM: Array | None) -> float:
    """sum_n log sum_e p(e | x_n) p(y_n | x_n, e), experts normal with diagonal covariance or Bernoulli."""
    if variance_NEM is None:
        with np.errstate(divide="ignore"):  # experts that are sure
            log_density_NE = np.log(np.where(y[:, None] == 1, out_NEM[:, :, 0], 1 - out_NEM[:, :, 0]))
    else:
        y_NM = y.reshape(len(y), -1)
        log_density_NE = norm.logpdf(y_NM[:, None], out_NEM, np.sqrt(variance_NEM)).sum(axis=2)
    return float(logsumexp(log_gate_NE + log_density_NE, axis=1).sum())


def read_ours(case: Case, model: MoERegressor | MoEClassifier, X: Array) -> tuple[Array, Array, Array | None]:
    """Log-probabilities of the gate; means and variances of normal experts, or probabilities of the second class."""
    log_gate_NE, out_NEM = np.log(model.gate(X)), model.experts_.output(X)
    return (log_gate_NE, out_NEM[:, :, 1:], None) if case.binary else (log_gate_NE, out_NEM, model.experts_.variance(X))


def read_theirs(case: Case, parts: list[Numbers], X: Array) -> tuple[Array, Array, Array | None]:
    """The same of flexmix; the intercept is the first of its coefficients."""
    if case.targets > 1:
        out_NEM = np.stack([named(part, "center") for part in parts])[None]
        return log_gate(parts, X), out_NEM, np.stack([named(part, "cov")[:: case.targets + 1] for part in parts])[None]
    coef_EF = np.stack([named(part, "coef") for part in parts])
    out_NEM = (coef_EF[:, 0] + X @ coef_EF[:, 1:].T)[:, :, None]
    if case.binary:
        return log_gate(parts, X), expit(out_NEM), None
    return log_gate(parts, X), out_NEM, np.array([part["sigma"] ** 2 for part in parts])[None, :, None]


def log_gate(parts: list[Numbers], X: Array) -> Array:
    """Log-probabilities of flexmix's gate, (N, E)."""
    if "prior" in parts[0]:
        return np.log([part["prior"] for part in parts])[None]
    weights_EF = np.stack([named(part, "gate") for part in parts])
    return log_softmax(weights_EF[:, 0] + X @ weights_EF[:, 1:].T, axis=1)


def named(part: Mapping[str, float], start: str) -> Array:
    """The numbers whose names begin so."""
    return np.array([value for name, value in part.items() if name.startswith(start)])
