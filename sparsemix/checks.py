"""Checks at the public boundary: each raises one line of the form `name: rule, value seen; remedy`."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType
from typing import Any

EXTRAS = {
    "datasets": "data",
    "pyarrow": "data",
    "matplotlib": "plot",
    "tensorboard": "tensorboard",
    "gguf": "gguf",
    "scipy": "surgery",
    "transformers": "hf",
    "triton": "triton",
    "skops": "classic",
}


def check(condition: bool, name: str, rule: str, seen: Any, remedy: str = "") -> None:
    """Raise `ValueError("name: rule, got seen; remedy")` unless `condition` holds.

    >>> check(2 <= 4, "k", "must be in 1..num_experts", "k=2")
    """
    if not condition:
        raise ValueError(f"{name}: {rule}, got {seen}" + (f"; {remedy}" if remedy else ""))


def check_dim(name: str, tensor: Any, axis: int, size: int) -> None:
    """Raise `ValueError` unless `tensor.shape[axis] == size`."""
    check(
        tensor.ndim > 0 and tensor.shape[axis] == size,
        name,
        f"size of axis {axis} must be {size}",
        f"shape {tuple(tensor.shape)}",
        f"pass a tensor whose axis {axis} has {size} entries",
    )


def require(module: str, purpose: str) -> ModuleType:
    """Import an optional library, or raise `ImportError` naming the extra that brings it."""
    if importlib.util.find_spec(module.split(".")[0]) is None:
        extra = EXTRAS[module.split(".")[0]]
        raise ImportError(f"{module}: needed {purpose}, not installed; run: pip install 'sparsemix[{extra}]'")
    return importlib.import_module(module)
