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
from scipy.special import log_softmax, logsumexp

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
    """Log-likelihood and BIC of both with one number of components."""
    model = our_model(case, components, starts).fit(X, y)
    mixture, parts = theirs[0], theirs[1:]
    same = log_likelihood_of_theirs(case, model, X, y, parts)
    off = abs(same / mixture["log_likelihood"] - 1)
    check(off <= AGREE, case.name, f"flexmix's parameters must have its likelihood, within {AGREE}, here too", off)
    return {
        "components": components,
        "our_log_likelihood": float(model.score_samples(X, y).sum()),
        "their_log_likelihood": mixture["log_likelihood"],
        "our_bic": float(model.bic(X, y)),
        "their_bic": mixture["bic"],
    }


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
        return MoEClassifier(LogisticExperts(alpha=0.0), **options)
    return MoERegressor(LinearExperts(alpha=0.0), **options)


def log_likelihood_of_theirs(
    case: Case, model: MoERegressor | MoEClassifier, X: Array, y: Array, parts: list[Numbers]
) -> float:
    """Of flexmix's parameters in the density of our experts."""
    experts = model.experts_.only(np.arange(len(parts)))
    put = put_logistic if case.binary else put_linear
    put(experts, [named(part, "center" if case.targets > 1 else "coef") for part in parts], parts)
    y = y.astype(int) if case.binary else y.reshape(len(y), -1)
    return float(logsumexp(log_gate(parts, X) + experts.log_density(X, y), axis=1).sum())


def named(part: Mapping[str, float], start: str) -> Array:
    """The numbers whose names begin so."""
    return np.array([value for name, value in part.items() if name.startswith(start)])


def put_linear(experts: LinearExperts, coefs: list[Array], parts: list[Numbers]) -> None:
    """Coefficients, the intercept first, or the centres of targets without columns; and variances."""
    for expert, (coef, part) in enumerate(zip(coefs, parts, strict=True)):
        centres = "center.y1" in part
        experts.coef_EMD_[expert] = 0.0 if centres else coef[1:]
        experts.intercept_EM_[expert] = coef if centres else coef[0]
        experts.variance_EM_[expert] = named(part, "cov")[[0, 3]] if centres else part["sigma"] ** 2


def put_logistic(experts: LogisticExperts, coefs: list[Array], parts: list[Numbers]) -> None:
    """Coefficients of the second class against the first, the intercept first, for standardised columns."""
    for expert, coef in enumerate(coefs):
        scaled_D = coef[1:] * experts.scale_D_
        intercept = coef[0] + coef[1:] @ experts.mean_D_
        experts.logits_E_[expert] = experts.logits_E_[expert]._replace(
            coef_KD=np.stack([0 * scaled_D, scaled_D]), intercept_K=np.array([0.0, intercept])
        )


def log_gate(parts: list[Numbers], X: Array) -> Array:
    """Log-probabilities of flexmix's gate, (N, E)."""
    if "prior" in parts[0]:
        return np.log([part["prior"] for part in parts])[None]
    weights_EF = np.stack([named(part, "gate") for part in parts])
    return log_softmax(weights_EF[:, 0] + X @ weights_EF[:, 1:].T, axis=1)
