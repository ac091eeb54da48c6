"""Tables in which one or two columns vary and the others stay at what is usual."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice, pairwise
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse
from sklearn.utils import _safe_indexing

from sparsemix.checks import check
from sparsemix.classic.parts import Array

Feature = int | str
"""A column: its place, or its name."""


class Grid(NamedTuple):
    """One or two columns of a table over their range, in every combination; the first varies fastest."""

    X: Any
    """The rows, of the kind of the table: other columns at their median, those that are no numbers at what is most
    frequent."""
    places: tuple[int, ...]
    """Of the columns that vary."""
    values: tuple[Array, ...]
    """Of each of them."""
    names: tuple[str, ...]
    alone: bool
    """Whether there are no other columns."""

    def square(self, values: Array) -> Array:
        """What belongs to the rows, with an axis for each column that varies, the last one first."""
        return values.reshape(*(len(value) for value in reversed(self.values)), *values.shape[1:])


def swept(X: Any, features: tuple[Feature, ...], resolution: int) -> Grid:
    """The grid over the range of these columns, and a twentieth of it on either side."""
    places = tuple(place_of(X, feature) for feature in features)
    values = tuple(widened(numbers(X, place), resolution) for place in places)
    flat = [axis.ravel() for axis in np.meshgrid(*values)]
    names = tuple(name_of(X, place) for place in places)
    return Grid(rows_of(X, places, flat), places, values, names, X.shape[1] == len(places))


def widened(column_N: Array, resolution: int) -> Array:
    low, high = np.nanmin(column_N), np.nanmax(column_N)
    margin = 0.05 * (high - low) if high > low else 1.0
    return np.linspace(low - margin, high + margin, resolution)


def chosen(X: Any, features: Feature | Iterable[Feature] | None, most: int) -> tuple[Feature, ...]:
    """The columns asked for; by default the first `most` columns of numbers."""
    if features is None:
        found = tuple(islice((place for place in range(X.shape[1]) if is_numeric(column_of(X, place))), most))
        check(len(found) > 0, "features", "must be columns of numbers", "an X without any")
        return found
    given = (features,) if isinstance(features, str) or not isinstance(features, Iterable) else tuple(features)
    check(1 <= len(given) <= most, "features", f"must be 1..{most} columns for this picture", given)
    return given


def place_of(X: Any, feature: Feature) -> int:
    """Where the column is."""
    if isinstance(feature, str):
        names = [str(name) for name in getattr(X, "columns", ())]
        check(feature in names, "features", "must name columns of X", repr(feature))
        return names.index(feature)
    check(-X.shape[1] <= feature < X.shape[1], "features", f"must be columns of X, 0..{X.shape[1] - 1}", feature)
    return feature % X.shape[1]


def name_of(X: Any, place: int) -> str:
    """The name of a column, x0, x1, ... where there are none."""
    return str(X.columns[place]) if hasattr(X, "columns") else f"x{place}"


def column_of(X: Any, place: int) -> Array:
    """A column as an array."""
    column: Any = _safe_indexing(X, place, axis=1)
    return column.toarray().ravel() if sparse.issparse(column) else np.asarray(column)


def is_numeric(column_N: Array) -> bool:
    return np.issubdtype(column_N.dtype, np.number)


def numbers(X: Any, place: int) -> Array:
    """A column of numbers."""
    column_N = column_of(X, place)
    seen = f"{name_of(X, place)} of {column_N.dtype}"
    check(is_numeric(column_N), "features", "must be columns of numbers", seen)
    return column_N


def rows_of(X: Any, places: tuple[int, ...], values: list[Array]) -> Any:
    """The rows of the grid, of the kind that X is."""
    if hasattr(X, "columns"):
        return frame_rows(X, places, values)
    if sparse.issparse(X):
        return sparse_rows(X, places, values)
    grid = np.tile(np.nanmedian(X, axis=0), (len(values[0]), 1)).astype(X.dtype)
    grid[:, list(places)] = np.column_stack(values)
    return grid


def sparse_rows(X: Any, places: tuple[int, ...], values: list[Array]) -> Any:
    columns = X.tocsc()
    usual_D = np.array([np.median(columns[:, [place]].toarray()) for place in range(X.shape[1])], dtype=X.dtype)
    usual_D[list(places)] = 0
    count = len(values[0])
    row = (np.tile(np.arange(count), len(places)), np.repeat(places, count))
    varied = sparse.csr_matrix((np.concatenate(values), row), shape=(count, X.shape[1]), dtype=X.dtype)
    return sparse.csr_matrix(np.ones((count, 1), dtype=X.dtype)) @ sparse.csr_matrix(usual_D) + varied


def frame_rows(X: Any, places: tuple[int, ...], values: list[Array]) -> Any:
    """Other columns repeat a value that occurs, so that they keep their types; pandas and polars alike."""
    count = len(values[0])
    columns: dict[str, Any] = {}
    for place, name in enumerate(X.columns):
        column = X[name]
        repeated = [usual_row(np.asarray(column))] * count
        same = column.iloc[repeated].reset_index(drop=True) if hasattr(column, "iloc") else column[repeated]
        columns[name] = values[places.index(place)] if place in places else same
    return type(X)(columns)


def usual_row(column_N: Array) -> int:
    """The row that holds the median (the lower one of two), or what is most frequent."""
    if is_numeric(column_N):
        missing = int(np.isnan(column_N).sum())
        return int(np.argsort(column_N, kind="stable")[(len(column_N) - missing - 1) // 2])
    _, first, counts = np.unique(column_N.astype(str), return_index=True, return_counts=True)
    return int(first[counts.argmax()])


def stretches(values_G: Array) -> list[tuple[int, int, Any]]:
    """Start, end and value of each run of equal values."""
    edges = [0, *(np.flatnonzero(np.diff(values_G)) + 1), len(values_G)]
    return [(start, end, values_G[start].item()) for start, end in pairwise(edges)]
