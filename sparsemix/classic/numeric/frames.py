"""Data frames as numbers: pandas and polars, told apart by what their columns can do, so that neither is needed."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from sklearn.preprocessing import OneHotEncoder

from sparsemix.checks import check
from sparsemix.classic.parts import Array


class Encoding(NamedTuple):
    """Which columns of a frame are numbers, and the categories of the others."""

    numeric: tuple[Any, ...]
    """Their names."""
    categorical: tuple[Any, ...]
    encoder: OneHotEncoder
    """Of the categorical ones; a missing value is a category, an unknown one is none."""


def is_frame(X: Any) -> bool:
    """Whether X has named columns of their own types."""
    return hasattr(X, "columns") and hasattr(X, "dtypes")


def encoding_of(frame: Any) -> Encoding:
    """How to encode this frame and others with the same columns."""
    numeric = tuple(name for name in frame.columns if _is_numeric(name, frame[name].dtype))
    categorical = tuple(name for name in frame.columns if name not in numeric)
    encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    return Encoding(numeric, categorical, encoder.fit(_values(frame, categorical)) if categorical else encoder)


def encoded(frame: Any, encoding: Encoding) -> Array:
    """The frame in float64: numbers first, NaN where they are missing, then a column for each category."""
    numbers = [_numbers(name, frame[name]) for name in encoding.numeric]
    if encoding.categorical:
        numbers.append(np.asarray(encoding.encoder.transform(_values(frame, encoding.categorical))))
    return np.column_stack(numbers)


def _is_numeric(name: Any, dtype: Any) -> bool:
    """Whether a column holds numbers or booleans; pandas' types have a `kind`, polars' say it themselves."""
    if hasattr(dtype, "kind"):
        numeric, temporal = dtype.kind in "biuf", dtype.kind in "mM"
    else:
        numeric, temporal = dtype.is_numeric() or str(dtype) == "Boolean", dtype.is_temporal()
    check(not temporal, "X", "times are no numbers", f"column {name!r} of {dtype}", "convert it, or leave it out")
    return numeric


def _numbers(name: Any, column: Any) -> Array:
    polars = hasattr(column, "cast")
    value_N = column.cast(float).to_numpy() if polars else column.to_numpy(dtype=np.float64, na_value=np.nan)
    check(not np.isinf(value_N).any(), "X", "must be finite or missing", f"infinity in column {name!r}")
    return value_N


def _values(frame: Any, names: tuple[Any, ...]) -> Array:
    """Values of categorical columns, None where missing."""
    values = [np.array(frame[name], dtype=object) for name in names]
    for value_N, name in zip(values, names, strict=True):
        column = frame[name]
        value_N[np.asarray(column.isna() if hasattr(column, "isna") else column.is_null())] = None
    return np.column_stack(values)
