"""Work on a table in blocks of rows: what is made on the way stays in the cache, and memory does not grow with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.utils import _safe_indexing, gen_batches

from sparsemix.classic.parts import Array

ROWS = 1 << 13


def in_blocks(function: Callable[..., Array], X: Any, y: Array | None = None) -> Array:
    """`function` of each block of rows of X (and of y, where there is one), put together along the rows."""
    rows = X.shape[0]
    if rows <= ROWS:
        return function(X) if y is None else function(X, y)
    blocks = gen_batches(rows, ROWS)
    if y is None:
        return np.concatenate([function(_safe_indexing(X, block)) for block in blocks])
    return np.concatenate([function(_safe_indexing(X, block), y[block]) for block in blocks])
