"""Designs: standardised columns from arrays, sparse matrices, frames and users' transformers."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, SplineTransformer

from sparsemix.classic.numeric.design import Design
from tests.classic.tables import whole

NUMBERS = {"size": [1.0, 2.0, 4.0, 9.0], "old": [True, False, True, True], "count": [3, 1, 4, 1]}
FRAMES = [
    pd.DataFrame(NUMBERS | {"place": ["b", "a", None, "b"], "gone": pd.array([1, None, 3, 2], dtype="Int64")}),
    pl.DataFrame(NUMBERS | {"place": ["b", "a", None, "b"], "gone": [1, None, 3, 2]}),
    pd.DataFrame(NUMBERS | {"place": pd.Categorical(["b", "a", None, "b"]), "gone": [1.0, np.nan, 3.0, 2.0]}),
    pl.DataFrame(NUMBERS | {"place": ["b", "a", None, "b"], "gone": [1, None, 3, 2]}).cast({"place": pl.Categorical}),
]


def columns_of(X, weight_N=None, features=None):
    weight_N = np.ones(len(X) if hasattr(X, "columns") else X.shape[0]) if weight_N is None else weight_N
    return whole(Design(features).fitted(X, weight_N).columns(X))


@given(st.integers(0, 2**32 - 1))
def test_weights_are_repetitions(seed):
    random = np.random.default_rng(seed)
    X, count_N = random.normal(size=(12, 3)), random.integers(0, 4, size=12)
    X[random.random(X.shape) < 0.1] = np.nan
    count_N[0] = 2
    weighted = Design().fitted(X, count_N.astype(float))
    repeated = Design().fitted(X.repeat(count_N, axis=0), np.ones(count_N.sum()))
    np.testing.assert_allclose(whole(weighted.columns(X)), whole(repeated.columns(X)), atol=1e-10)


def test_columns_have_mean_0_and_variance_1():
    X, weight_N = np.random.default_rng(0).normal(5, 3, size=(50, 2)), np.linspace(1, 2, 50)
    z_ND = columns_of(X, weight_N)
    np.testing.assert_allclose(np.average(z_ND, axis=0, weights=weight_N), 0, atol=1e-12)
    np.testing.assert_allclose(np.average(z_ND**2, axis=0, weights=weight_N), 1)


def test_a_sparse_matrix_is_scaled_as_the_array_and_not_centred():
    X = np.random.default_rng(0).integers(0, 2, size=(50, 3)).astype(float)
    thin, dense = columns_of(sparse.csr_matrix(X)), columns_of(X)
    shift_ND = thin - dense
    np.testing.assert_allclose(shift_ND, shift_ND[:1].repeat(50, axis=0), atol=1e-12)
    assert (thin[X == 0] == 0).all()


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix])
def test_constant_columns_are_left_out(kind):
    X = np.column_stack([np.full(5, 0.1), np.arange(5.0), np.zeros(5)])
    assert columns_of(kind(X)).shape == (5, 1)
    assert columns_of(kind(X[:, :1])).shape == (5, 0)


def test_float32_is_not_copied():
    X = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    assert Design().fitted(X, np.ones(20)).columns(X).raw is X


def test_what_is_prepared_is_not_prepared_again():
    X = np.arange(6.0).reshape(3, 2)
    design = Design().fitted(X, np.ones(3))
    columns = design.columns(X)
    assert design.columns(columns) is columns


def test_a_missing_number_is_at_the_mean_and_has_a_column():
    X = np.array([[1.0, 5.0], [np.nan, 6.0], [3.0, 7.0]])
    z_ND = columns_of(X)
    assert z_ND.shape == (3, 3)
    assert z_ND[1, 0] == 0
    np.testing.assert_allclose(z_ND[:, 2], np.array([-1, 2, -1]) / np.sqrt(2))


def test_a_number_missing_later_only_is_at_the_mean():
    design = Design().fitted(np.array([[1.0], [3.0]]), np.ones(2))
    assert whole(design.columns(np.array([[np.nan]]))) == 0


def test_missing_in_a_sparse_matrix_is_refused():
    X = sparse.csr_matrix([[np.nan, 1.0], [2.0, 0.0]])
    with pytest.raises(ValueError, match="X: must have finite values where it is sparse"):
        Design().fitted(X, np.ones(2))


@pytest.mark.parametrize("frame", FRAMES, ids=["pandas", "polars", "pandas categorical", "polars categorical"])
def test_frames_become_numbers(frame):
    raw = np.array([  # size, old, count, gone, then a, b and missing of place, then gone missing
        [1, 1, 3, 1, 0, 1, 0, 0],
        [2, 0, 1, 2, 1, 0, 0, 1],
        [4, 1, 4, 3, 0, 0, 1, 0],
        [9, 1, 1, 2, 0, 1, 0, 0],
    ])  # fmt: skip
    expected = (raw - raw.mean(axis=0)) / raw.std(axis=0)
    np.testing.assert_allclose(columns_of(frame), expected, atol=1e-12)


@pytest.mark.parametrize("library", [pd, pl])
def test_an_unknown_category_is_none(library):
    design = Design().fitted(library.DataFrame({"place": ["a", "b", "a"]}), np.ones(3))
    raw = design.columns(library.DataFrame({"place": ["c"]})).raw
    assert raw.tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("library", [pd, pl])
def test_missing_booleans_are_missing_numbers(library):
    values = pd.array([True, None, False], dtype="boolean") if library is pd else [True, None, False]
    assert columns_of(library.DataFrame({"old": values}))[1, 0] == 0


@pytest.mark.parametrize("library", [pd, pl])
def test_times_are_refused(library):
    frame = library.DataFrame({"day": pd.date_range("2020-01-01", periods=3)})
    with pytest.raises(ValueError, match="X: times are no numbers, got column 'day'"):
        Design().fitted(frame, np.ones(3))


def test_features_are_made_before_standardising():
    X = np.random.default_rng(0).normal(size=(30, 2))
    made = PolynomialFeatures(2).fit_transform(X)[:, 1:]  # the constant is left out
    expected = (made - made.mean(axis=0)) / made.std(axis=0)
    np.testing.assert_allclose(columns_of(X, features=PolynomialFeatures(2)), expected, atol=1e-10)


@pytest.mark.parametrize("features", [SplineTransformer(), make_pipeline(SplineTransformer(3))])
def test_features_do_not_see_rows_of_weight_0(features):
    X = np.random.default_rng(0).normal(size=(30, 2))
    weight_N = (np.arange(30) % 3 > 0).astype(float)
    X[weight_N == 0] *= 100
    kept = weight_N > 0
    design = Design(features).fitted(X, weight_N)
    expected = Design(features).fitted(X[kept], np.ones(kept.sum()))
    np.testing.assert_allclose(whole(design.columns(X[kept])), whole(expected.columns(X[kept])))
    assert not hasattr(features, "n_features_in_")
