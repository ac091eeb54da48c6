"""Whether parameters ask for the same, those of parts inside parts too."""

from __future__ import annotations

from typing import Any

import numpy as np


def alike(one: Any, other: Any) -> bool:
    """Whether two values of parameters are of one type and, item by item or parameter by parameter, equal.

    What can neither be taken apart nor compared is alike only to itself: a random state, for one, is not to its copy.
    """
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(alike(value, other[key]) for key, value in one.items())
    if hasattr(one, "get_params"):
        return alike(one.get_params(deep=False), other.get_params(deep=False))
    if isinstance(one, np.ndarray | float):
        return np.array_equal(one, other, equal_nan=np.asarray(one).dtype.kind == "f")
    if hasattr(one, "__dict__") and not callable(one):
        return alike(vars(one), vars(other))
    return bool(one == other)
