"""House prices whose law changes from place to place: a mixture finds the places, and says what counts in each."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import train_test_split

from sparsemix.classic import MoERegressor, plot_partition


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Fit, print what was learned, and save a picture; returns R2 on held-out houses, by model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--picture", type=Path, default=Path("tabular.png"), help="where it goes")
    parser.add_argument("--rows", type=int, default=2000, help="houses")
    settings = parser.parse_args(argv)
    X, y = houses(settings.rows)
    X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
    mixture = MoERegressor(n_experts="bic", n_experts_range=(1, 5), random_state=0)
    models = {"one line": LinearRegression(), "boosting": HistGradientBoostingRegressor(random_state=0)}
    scores = {
        name: float(model.fit(X_train, y_train).score(X_test, y_test))
        for name, model in {**models, "mixture": mixture}.items()
    }
    print("R2 on held-out houses:", ", ".join(f"{name} {score:.3f}" for name, score in scores.items()))
    print(f"\nBIC chooses {mixture.n_experts_} experts. Where each one lives, and what it pays for:\n")
    print(laws(mixture, X_train).round(1).to_string())
    low, high = mixture.predict_quantiles(X_test, (0.05, 0.95)).T
    print(f"\n90% intervals contain {np.mean((low <= y_test) & (y_test <= high)):.0%} of the held-out prices.")
    axes = plot_partition(mixture, X_train, y_train, features=("km_to_centre", "area"))
    axes.figure.savefig(settings.picture, dpi=100)
    print(f"Picture: {settings.picture}")
    return scores


def houses(rows: int) -> tuple[pd.DataFrame, pd.Series]:
    """In the centre the area is paid for, in the suburbs the garden, and beyond only that the house is new."""
    random = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "km_to_centre": random.uniform(0, 30, rows),
            "area": random.uniform(40, 200, rows),
            "garden": random.gamma(2, 150, rows),
            "age": random.uniform(0, 80, rows),
        }
    )
    centre = 6 * table["area"] + 0.1 * table["garden"] - 1.0 * table["age"] + 100
    suburb = 2 * table["area"] + 0.6 * table["garden"] - 2.0 * table["age"] + 150
    beyond = 1 * table["area"] + 0.05 * table["garden"] - 4.0 * table["age"] + 400
    place = np.digitize(table["km_to_centre"] + random.normal(0, 1, rows), [8, 20])
    noise = np.array([60, 30, 15])[place] * random.normal(size=rows)
    return table, pd.Series(np.choose(place, [centre, suburb, beyond]) + noise, name="price")


def laws(mixture: MoERegressor, X: pd.DataFrame) -> pd.DataFrame:
    """A line for each expert: its share of the houses, where they are, and its price of a unit of each column."""
    gate = mixture.gate(X)
    experts: Any = mixture.experts_
    table = pd.DataFrame(experts.coef_EMD_[:, 0], columns=[f"per {name}" for name in X.columns])
    table.insert(0, "share %", 100 * gate.mean(axis=0))
    table.insert(1, "mean km", gate.T @ X["km_to_centre"].to_numpy() / gate.sum(axis=0))
    table["noise"] = np.sqrt(experts.variance_EM_[:, 0])
    return table.sort_values("mean km", ignore_index=True)


if __name__ == "__main__":
    main()
