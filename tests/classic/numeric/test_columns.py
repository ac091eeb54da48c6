"""Columns in blocks: moments and products against the whole table at once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from sparsemix.classic.numeric.columns import Columns, moments
from tests.classic.tables import whole


def table(seed, rows=40, features=3):
    random = np.random.default_rng(seed)
    return random.normal(3.0, 2.0, size=(rows, features)), random.integers(0, 3, size=rows) + 0.5


@given(st.integers(0, 2**32 - 1), st.sampled_from([np.float64, np.float32]))
def test_moments_are_numpys(seed, dtype):
    x_ND, weight_N = table(seed)
    mean_D, deviation_D = moments(x_ND.astype(dtype), weight_N)
    expected_D = np.average(x_ND.astype(dtype), axis=0, weights=weight_N)
    np.testing.assert_allclose(mean_D, expected_D, rtol=1e-6)
    variance_D = np.average((x_ND.astype(dtype) - expected_D) ** 2, axis=0, weights=weight_N)
    np.testing.assert_allclose(deviation_D, np.sqrt(variance_D), rtol=1e-6)


@given(st.integers(0, 2**32 - 1))
def test_moments_of_a_sparse_matrix_are_those_of_the_array(seed):
    x_ND, weight_N = table(seed)
    x_ND[np.abs(x_ND) < 2] = 0
    for dense, thin in zip(moments(x_ND, weight_N), moments(sparse.csr_matrix(x_ND), weight_N), strict=True):
        np.testing.assert_allclose(thin, dense, rtol=1e-12, atol=1e-12)


def test_moments_leave_out_what_is_missing():
    x_ND = np.array([[1.0], [np.nan], [5.0]])
    mean_D, deviation_D = moments(x_ND, np.array([1.0, 7.0, 3.0]))
    assert mean_D == pytest.approx(4.0)
    assert deviation_D == pytest.approx(np.sqrt((1 * 9 + 3 * 1) / 11))  # the missing row is at the mean


@pytest.mark.parametrize("value", [0.0, 0.1, -3e7, 1e300])
def test_a_constant_column_has_no_deviation(value):
    weight_N = np.linspace(0.1, 0.7, 1001)
    assert moments(np.full((1001, 1), value), weight_N)[1] == 0
    assert moments(sparse.csr_matrix(np.full((1001, 1), value)), weight_N)[1] == 0


def test_huge_numbers_do_not_overflow():
    mean_D, deviation_D = moments(np.array([[1e300], [3e300]]), np.ones(2))
    assert mean_D == pytest.approx(2e300)
    assert deviation_D == pytest.approx(1e300)


@pytest.mark.parametrize("rows", [1, 7, 100])
@pytest.mark.parametrize("kind", [np.asarray, np.float32, sparse.csr_matrix])
def test_products_are_those_of_the_whole(kind, rows):
    random = np.random.default_rng(rows)
    raw = kind(random.integers(0, 3, size=(rows, 4)).astype(np.float64))
    mean_D = np.zeros(4) if sparse.issparse(raw) else np.arange(4.0)
    columns = Columns(raw, mean_D, np.arange(1.0, 5.0))
    z_ND = ((raw.toarray() if sparse.issparse(raw) else raw) - mean_D) / np.arange(1.0, 5.0)
    coef_KD, value_NK = random.normal(size=(2, 4)), random.normal(size=(rows, 2))
    np.testing.assert_allclose(columns.times(coef_KD), z_ND @ coef_KD.T, atol=1e-12)
    np.testing.assert_allclose(columns.transposed_times(value_NK), value_NK.T @ z_ND, atol=1e-12)
    np.testing.assert_allclose(whole(columns), z_ND, atol=1e-12)
    np.testing.assert_allclose(np.vstack([z for _, z in columns.blocks(3)]), z_ND, atol=1e-12)


def test_sparse_rows_of_what_was_fitted_to_arrays_are_centred():
    random = np.random.default_rng(0)
    raw, value_NK = random.uniform(1, 2, size=(9, 3)), random.normal(size=(9, 2))
    dense = Columns(raw, raw.mean(axis=0), raw.std(axis=0))
    mixed = Columns(sparse.csr_matrix(raw), dense.mean_D, dense.scale_D)
    np.testing.assert_allclose(whole(mixed), whole(dense), rtol=1e-12)
    np.testing.assert_allclose(mixed.transposed_times(value_NK), dense.transposed_times(value_NK), rtol=1e-9)
