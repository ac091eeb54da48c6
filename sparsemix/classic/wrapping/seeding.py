"""Copies of estimators, and seeds for those that have none."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import clone

LARGEST_SEED = np.iinfo(np.int32).max


def fresh(estimator: Any) -> Any:
    """`clone`, of which type checkers know less than we do: it gives back what it is given."""
    return clone(estimator)


def seeded(estimator: Any, seed: int) -> Any:
    """A clone whose random states that are None, nested ones too, are seeds drawn from `seed`."""
    new = fresh(estimator)
    random = np.random.RandomState(seed)
    names = [name for name in sorted(new.get_params()) if name == "random_state" or name.endswith("__random_state")]
    seeds = {name: random.randint(LARGEST_SEED) for name in names}
    return new.set_params(**{name: value for name, value in seeds.items() if new.get_params()[name] is None})
