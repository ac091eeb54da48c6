"""When two values of parameters ask for the same."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, WhiteKernel
from sklearn.impute import SimpleImputer
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline

from sparsemix.classic import EstimatorExperts, TreeGate
from sparsemix.classic.estimators.alike import alike


@pytest.mark.parametrize(
    "make",
    [
        lambda value: Ridge(alpha=value),
        lambda value: Ridge(alpha=np.array([value, 1.0])),
        lambda value: [Ridge(), Ridge(alpha=value)],
        lambda value: make_pipeline(SimpleImputer(missing_values=float("nan")), Ridge(alpha=value)),
        lambda value: GaussianProcessRegressor(RBF(value) + WhiteKernel()),
        lambda value: EstimatorExperts([Ridge(alpha=value)], cross_fit=3),
        lambda value: TreeGate((2, int(value))),
        lambda value: KFold(int(value)),
        lambda value: {"weight": value},
        lambda value: np.array([value, np.nan]),
        lambda value: np.array(["name", str(value)]),
    ],
)
def test_parts_are_alike_if_their_parameters_are(make):
    assert alike(make(2.0), make(2.0))
    assert alike(clone(make(2.0), safe=False), make(2.0))
    assert not alike(make(2.0), make(3.0))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (None, Ridge()),
        (1, True),
        ([Ridge()], (Ridge(),)),
        ([Ridge()], [Ridge(), Ridge()]),
        ({"a": 1}, {"b": 1}),
        (np.random.RandomState(0), np.random.RandomState(0)),
        (lambda X: X, lambda X: X**2),
    ],
)
def test_other_types_lengths_and_names_are_not(one, other):
    assert not alike(one, other)
    assert alike(one, one)
