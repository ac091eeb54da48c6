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


def check_numbers(frame: Any) -> None:
    """Raise `ValueError` naming the first column that cannot be read as numbers."""
    rule = "must hold numbers for these experts"
    remedy = 'pass an expert that takes frames, such as a pipeline with OneHotEncoder(handle_unknown="ignore")'
    for name, dtype in zip(frame.columns, frame.dtypes, strict=True):
        readable = _is_numeric(name, dtype) or _reads_as_numbers(np.asarray(frame[name]))
        check(readable, "X", rule, f"column {name!r} of {dtype}", remedy)


def _reads_as_numbers(value_N: Array) -> bool:
    """Whether scikit-learn can take a column: numbers as objects, categories that are numbers."""
    if value_N.dtype.kind not in "OSUT":
        return True
    try:
        value_N.astype(np.float64)
    except (TypeError, ValueError):
        return False
    return True


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
