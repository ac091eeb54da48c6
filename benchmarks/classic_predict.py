"""Time of a prediction of 1,000,000 rows by 8 linear experts and their gate, against 8 ridge regressions alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from harness import claim, ratio, spread, take_turns
from sklearn.linear_model import Ridge

from sparsemix.classic import MoERegressor

ROWS, COLUMNS, EXPERTS = 1_000_000, 20, 8
FITTED = 5_000
"""Rows that the models learn from; they predict as fast whatever they learned."""


def measure(toy: bool) -> dict[str, Any]:
    """Both, in turns."""
    random = np.random.default_rng(0)
    X = random.normal(size=(2_000 if toy else ROWS, COLUMNS))
    y = np.abs(X[:FITTED]).sum(axis=1) + random.normal(size=len(X[:FITTED]))
    mixture = MoERegressor(n_experts=EXPERTS, max_iter=20, tol=1e-3).fit(X[:FITTED], y)
    ridges = [Ridge().fit(X[expert:FITTED:EXPERTS], y[expert::EXPERTS]) for expert in range(EXPERTS)]
    contestants = {
        "mixture": lambda: mixture.predict(X),
        "ridges": lambda: [ridge.predict(X) for ridge in ridges],
    }
    seconds = take_turns(contestants, rounds=2 if toy else 9)
    text = f"{len(X):,} rows, {COLUMNS} columns: {EXPERTS} experts and their gate over {EXPERTS} x Ridge.predict"
    return {
        "rows": len(X),
        "seconds": {name: spread(taken) for name, taken in seconds.items()},
        "claims": [claim(text, ratio(seconds["mixture"], seconds["ridges"]), at_most=3)],
    }
