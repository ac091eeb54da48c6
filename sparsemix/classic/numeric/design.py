"""What gates, starts and logistic experts read of a table: standardised numeric columns, learned once."""

from __future__ import annotations

from copy import copy
from typing import Any, Self

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator, clone
from sklearn.utils import Tags, _safe_indexing, get_tags
from sklearn.utils.validation import has_fit_parameter

from sparsemix.checks import check
from sparsemix.classic.numeric.columns import Columns, moments
from sparsemix.classic.numeric.frames import Encoding, encoded, encoding_of, is_frame
from sparsemix.classic.parts import Array


class Design(BaseEstimator):
    """Columns z of mean 0 and variance 1 (sparse ones: of variance 1) from an array, a CSR matrix or a data frame.

    Of a frame, numbers and booleans are taken as they are; other columns become one for each category. A missing number
    is at the mean of its column, and a column that says so is added where the fit saw one. Constant columns are left
    out. Rows of weight 0 count nowhere. A value: `fitted` returns another one.

    Args:
        features: a transformer of scikit-learn that makes other columns, such as splines or polynomials. It is cloned
            and fitted to the rows of positive weight; the weights reach it if its `fit` takes them.
    """

    encoding_: Encoding | None
    """Of a frame; None: X was none."""
    features_: Any
    """The fitted transformer, or None."""
    missing_: Array
    """Numeric columns in which a value was missing."""
    kept_: Array | None
    """Columns that vary; None: all."""
    mean_D_: Array
    scale_D_: Array

    def __init__(self, features: Any = None) -> None:
        self.features = features

    def fitted(self, X: Any, weight_N: Array) -> Self:
        """Transformer, categories and scales learned."""
        if not weight_N.all():
            positive = np.flatnonzero(weight_N)
            X, weight_N = _safe_indexing(X, positive), weight_N[positive]
        new = copy(self)
        new.features_ = None if self.features is None else _fitted(clone(self.features), X, weight_N)
        made = X if new.features_ is None else new.features_.transform(X)
        new.encoding_ = encoding_of(made) if is_frame(made) else None
        raw = new._numbers(X)
        new.missing_ = np.empty(0, dtype=int) if sparse.issparse(raw) else np.flatnonzero(np.isnan(raw).any(axis=0))
        mean_D, deviation_D = moments(new._with_missing(raw), weight_N)
        check(bool(np.isfinite(mean_D).all()), "X", "must have finite values where it is sparse", "NaN or infinity")
        varying = np.flatnonzero(deviation_D > 0)
        new.kept_ = None if len(varying) == len(deviation_D) else varying
        new.scale_D_ = deviation_D[varying]
        new.mean_D_ = np.zeros(len(varying)) if sparse.issparse(raw) else mean_D[varying]
        return new

    def columns(self, X: Any) -> Columns:
        """The columns z of these rows; what this design made already is returned as it is."""
        if isinstance(X, Columns):
            return X
        raw = self._with_missing(self._numbers(X))
        return Columns(raw if self.kept_ is None else raw[:, self.kept_], self.mean_D_, self.scale_D_)

    def _numbers(self, X: Any) -> Any:
        """X as an array of floats or a CSR matrix, copied only where it must be."""
        if self.features_ is not None:
            X = self.features_.transform(X)
        if self.encoding_ is not None:
            return encoded(X, self.encoding_)
        if sparse.issparse(X):
            return X.tocsr()
        X = np.asarray(X)
        return X if X.dtype in (np.float32, np.float64) else X.astype(np.float64)

    def _with_missing(self, raw: Any) -> Any:
        if not len(self.missing_):
            return raw
        return np.column_stack([raw, np.isnan(raw[:, self.missing_]).astype(raw.dtype)])


def reading_tags(tags: Tags, features: Any) -> Tags:
    """The tags of a part that reads X through a design: what the transformer takes; without one, everything."""
    if features is not None:
        tags.input_tags = get_tags(features).input_tags
    else:
        tags.input_tags.sparse = tags.input_tags.allow_nan = tags.input_tags.categorical = True
    return tags


def _fitted(features: Any, X: Any, weight_N: Array) -> Any:
    return features.fit(X, sample_weight=weight_N) if has_fit_parameter(features, "sample_weight") else features.fit(X)
