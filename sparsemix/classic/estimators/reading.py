"""Reading what users pass: arrays, sparse matrices, data frames, targets and weights, checked as scikit-learn does."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from sklearn.utils import check_array, check_consistent_length, get_tags
from sklearn.utils.validation import _check_sample_weight, validate_data

from sparsemix.checks import check
from sparsemix.classic.numeric.frames import check_numbers, is_frame
from sparsemix.classic.parts import Array, Experts, Gate, Table


class Accepts(NamedTuple):
    """Which X a mixture takes beyond dense finite arrays."""

    frames: bool
    """Data frames, as they are; others are made arrays."""
    sparse: bool
    missing: bool
    """NaN; where the experts are users' estimators it is they who refuse it."""

    @classmethod
    def of(cls, experts: Experts, gate: Gate) -> Accepts:
        """What both parts take."""
        tags = [get_tags(part).input_tags for part in (experts, gate)]
        return cls(experts.takes_frames, all(tag.sparse for tag in tags), experts.takes_frames or tags[0].allow_nan)

    @property
    def params(self) -> dict[str, Any]:
        """For `check_array`: floats of 32 and 64 bits stay what they are."""
        return {
            "accept_sparse": "csr" if self.sparse else False,
            "dtype": [np.float64, np.float32],
            "ensure_all_finite": "allow-nan" if self.missing else True,
        }


def read_X(estimator: Any, X: Any, accepts: Accepts) -> Any:
    """X checked against what was fitted."""
    if accepts.frames and is_frame(X):
        return validate_data(estimator, X, reset=False, skip_check_array=True)
    if is_frame(X):
        check_numbers(X)
    return validate_data(estimator, X, reset=False, **accepts.params)


def read_both(estimator: Any, X: Any, y: Any, accepts: Accepts, *, reset: bool, y_dtype: Any) -> tuple[Any, Array]:
    """X and y checked; with `reset`, names and number of the features are remembered."""
    y_params = {"ensure_2d": False, "dtype": y_dtype}
    if accepts.frames and is_frame(X):
        X, y = validate_data(estimator, X, y, reset=reset, skip_check_array=True)
        y = check_array(y, input_name="y", **y_params)
    else:
        if is_frame(X):
            check_numbers(X)
        separately: Any = (accepts.params, y_params)
        X, y = validate_data(estimator, X, y, reset=reset, validate_separately=separately)
    check_consistent_length(X, y)
    return X, y


def read_weights(sample_weight: Any, X: Any) -> Array:
    """Sample weights in float64: ones by default, none negative, not all of them zero."""
    weight_N = _check_sample_weight(sample_weight, X, dtype=np.float64)
    check(bool((weight_N >= 0).all()), "sample_weight", "must not be negative", f"{weight_N.min():g}")
    return weight_N


def check_enough(table: Table, n_experts: int) -> None:
    """Raise `ValueError` unless each expert can have a row of its own, and the targets differ."""
    counted_N = table.weight_N > 0
    rows = int(counted_N.sum())
    check(rows > 0, "sample_weight", "must have a positive entry", "none")
    seen = f"n_samples={rows} for n_experts={n_experts}"
    check(rows >= n_experts, "X", "must have as many rows of positive weight as there are experts", seen)
    if table.num_classes is None:
        for output, y_N in enumerate(table.y[counted_N].T):
            seen = f"only {y_N[0]:g} in output {output}"
            check(np.ptp(y_N) > 0, "y", "must not be constant: its density has no scale", seen, "drop that output")
    else:
        present = len(np.unique(table.y[counted_N]))
        check(present > 1, "y", "must have rows of positive weight of at least 2 classes", f"{present} class")
