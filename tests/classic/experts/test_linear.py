"""Linear experts against plain weighted least squares, and what EM needs of them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.stats import multivariate_normal

from sparsemix.classic.experts import LinearExperts
from sparsemix.classic.parts import Table


def drawn(rows=60, features=3, outputs=2, n_experts=3, seed=0):
    random = np.random.default_rng(seed)
    X = random.normal(size=(rows, features)) * [1, 10, 0.1][:features] + [0, 5, -2][:features]
    y = X @ random.normal(size=(features, outputs)) + random.normal(size=(rows, outputs))
    table = Table(X, y, random.integers(0, 4, rows).astype(float))
    return table, table.weight_N[:, None] * random.dirichlet(np.ones(n_experts), size=rows)


def spread(values_ND, weight_N):
    return np.sqrt(np.average((values_ND - np.average(values_ND, axis=0, weights=weight_N)) ** 2, 0, weight_N))


def q(experts, table, weight_NE):
    return (weight_NE * experts.log_density(table.X, table.y)).sum() - experts.penalty


def least_squares(table, weight_N, alpha, floor):
    """Coefficients, intercept and variance by stacking pseudo-rows, one output at a time."""
    unit_D, features = spread(table.X, table.weight_N), table.X.shape[1]
    root_N = np.sqrt(weight_N)[:, None]
    rows = np.vstack([np.column_stack([table.X, np.ones(len(table.X))]) * root_N, np.eye(features, features + 1)])
    rows[-features:, :features] = np.diag(np.sqrt(alpha) * unit_D)
    for y_N, unit in zip(table.y.T, spread(table.y, table.weight_N), strict=True):
        right = np.append(y_N * root_N[:, 0], np.zeros(features))
        solution = np.linalg.lstsq(rows, right, rcond=None)[0]
        squares = ((right - rows @ solution) ** 2).sum()
        yield solution, max((squares + alpha * unit**2) / (weight_N.sum() + alpha), floor * unit**2)


@pytest.mark.parametrize("alpha", [0.0, 1e-2, 3.0])
def test_the_m_step_is_weighted_ridge_regression(alpha):
    table, weight_NE = drawn()
    experts = LinearExperts(alpha).started(table, 3).updated(table, weight_NE)

    for expert in range(3):
        for output, (solution, variance) in enumerate(least_squares(table, weight_NE[:, expert], alpha, 1e-6)):
            assert np.allclose(experts.coef_EMD_[expert, output], solution[:-1], rtol=1e-8)
            assert np.isclose(experts.intercept_EM_[expert, output], solution[-1], rtol=1e-8)
            assert np.isclose(experts.variance_EM_[expert, output], variance, rtol=1e-8)


def test_all_experts_start_from_the_fit_of_all_rows():
    table, _ = drawn()
    started = LinearExperts().started(table, 3)
    fitted = started.updated(table, np.repeat(table.weight_N[:, None], 3, axis=1))

    assert np.array_equal(started.coef_EMD_, fitted.coef_EMD_)
    assert np.array_equal(started.variance_EM_, fitted.variance_EM_)


def test_log_density_and_outputs_are_those_of_a_normal():
    table, weight_NE = drawn()
    experts = LinearExperts().started(table, 3).updated(table, weight_NE)
    log_NE = experts.log_density(table.X, table.y)

    for n in (0, 17, 59):
        for expert in range(3):
            mean_M = experts.coef_EMD_[expert] @ table.X[n] + experts.intercept_EM_[expert]
            normal = multivariate_normal(mean_M, np.diag(experts.variance_EM_[expert]))
            assert np.isclose(log_NE[n, expert], normal.logpdf(table.y[n]))
            assert np.allclose(experts.output(table.X)[n, expert], mean_M)
            assert np.allclose(experts.output_of(expert, table.X)[n], mean_M)
    assert experts.variance(table.X).shape == (1, 3, 2)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), alpha=st.sampled_from([0.0, 1e-2, 1.0]), rows=st.integers(4, 30))
def test_the_m_step_never_lowers_what_em_maximises(seed, alpha, rows):
    table, weight_NE = drawn(rows, seed=seed, n_experts=2)
    if np.unique(np.flatnonzero(table.weight_N)).size < 2:
        return
    experts = LinearExperts(alpha, variance_floor=1e-4).started(table, 2)
    before = experts.updated(table, weight_NE[::-1])
    after = before.updated(table, weight_NE)

    assert q(after, table, weight_NE) >= q(before, table, weight_NE) - 1e-9 * abs(q(before, table, weight_NE))
    moved = after.only(np.arange(2))
    moved.level_EM_ = after.level_EM_ + 1e-3 * spread(table.y, table.weight_N)
    moved.variance_EM_ = after.variance_EM_ * 1.01
    assert q(moved, table, weight_NE) < q(after, table, weight_NE)


def test_a_weight_is_a_repeated_row():
    table, _ = drawn()
    times_N = table.weight_N.astype(int)
    many = Table(np.repeat(table.X, times_N, axis=0), np.repeat(table.y, times_N, axis=0), np.ones(times_N.sum()))
    share_NE = np.random.default_rng(1).dirichlet(np.ones(2), size=len(times_N))
    weighted = LinearExperts().started(table, 2).updated(table, times_N[:, None] * share_NE)
    repeated = LinearExperts().started(many, 2).updated(many, np.repeat(share_NE, times_N, axis=0))

    assert np.allclose(weighted.coef_EMD_, repeated.coef_EMD_, rtol=1e-10)
    assert np.allclose(weighted.variance_EM_, repeated.variance_EM_, rtol=1e-10)


def test_float32_and_sparse_rows_give_what_dense_rows_give():
    random = np.random.default_rng(0)
    X = (random.normal(size=(3000, 6)) * (random.random((3000, 6)) < 0.3)).astype(np.float32)
    X[:, 5] = 1.0
    y = X[:, :1] - 2 * X[:, 1:2] + random.normal(size=(3000, 1))
    weight_N = random.integers(0, 3, 3000).astype(float)
    weight_NE = weight_N[:, None] * random.dirichlet(np.ones(2), size=3000)
    dense = LinearExperts().started(Table(X.astype(float), y, weight_N), 2)
    dense = dense.updated(Table(X.astype(float), y, weight_N), weight_NE)

    for rows in (X, sparse.csr_array(X), sparse.csr_matrix(X.astype(float))):
        table = Table(rows, y, weight_N)
        experts = LinearExperts().started(table, 2).updated(table, weight_NE)
        assert np.allclose(experts.coef_EMD_, dense.coef_EMD_, atol=1e-8)
        assert np.allclose(experts.intercept_EM_, dense.intercept_EM_, atol=1e-8)
        assert np.allclose(experts.log_density(rows, y), dense.log_density(X, y), atol=1e-6)
        assert experts.output(rows).dtype == np.float64
        assert np.isclose(experts.penalty, dense.penalty)


def test_columns_far_from_zero_cost_no_digits():
    table, weight_NE = drawn()
    far = table._replace(X=table.X + np.array([1e7, -1e8, 1e7]), y=table.y + 1e6)
    near = LinearExperts().started(table, 3).updated(table, weight_NE)
    experts = LinearExperts().started(far, 3).updated(far, weight_NE)

    assert np.allclose(experts.coef_EMD_, near.coef_EMD_, rtol=1e-5)
    assert np.allclose(experts.log_density(far.X, far.y), near.log_density(table.X, table.y), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 1e-2])
def test_repeated_and_constant_columns_share_or_get_nothing(alpha):
    table, weight_NE = drawn(features=2)
    wide = table._replace(X=np.column_stack([table.X, table.X[:, 0], np.full(60, 0.1)]))
    experts = LinearExperts(alpha).started(wide, 3).updated(wide, weight_NE)
    single = LinearExperts(alpha / 2).started(table, 3).updated(table, weight_NE)

    assert np.allclose(experts.coef_EMD_[..., 0], experts.coef_EMD_[..., 2], rtol=1e-6)
    assert np.allclose(experts.coef_EMD_[..., 3], 0)
    assert np.allclose(experts.coef_EMD_[..., 0] * 2, single.coef_EMD_[..., 0], rtol=1e-2)


def test_an_expert_without_rows_stays_as_it_was():
    table, weight_NE = drawn()
    before = LinearExperts().started(table, 3).updated(table, weight_NE)
    after = before.updated(table, weight_NE * [1, 0, 1])

    assert np.array_equal(after.coef_EMD_[1], before.coef_EMD_[1])
    assert np.array_equal(after.variance_EM_[1], before.variance_EM_[1])
    assert np.array_equal(after.coef_EMD_[0], before.coef_EMD_[0])


def test_laws_without_noise_are_found_and_a_few_rows_claim_no_certainty():
    X = np.random.default_rng(0).normal(size=(1000, 2))
    table = Table(X, X[:, :1] - X[:, 1:] + 3, np.ones(1000))
    experts = LinearExperts().started(table, 1)
    few = experts.updated(table, (np.arange(1000) < 3).astype(float)[:, None])

    assert ((experts.output(X)[:, 0] - table.y) ** 2).mean() < 1e-8
    assert experts.variance_EM_[0, 0] < 3e-5 * table.y.var()
    assert few.variance_EM_[0, 0] > 1e-3 * table.y.var()


def test_parts_of_a_table_add_up_to_the_whole():
    table, weight_NE = drawn()
    started = LinearExperts().started(table, 3)
    first, second = np.arange(60) < 25, np.arange(60) >= 25
    online = started.partially_updated(table.rows(first), weight_NE[first], keep=1.0)
    online = online.partially_updated(table.rows(second), weight_NE[second], keep=1.0)
    forgot = online.partially_updated(table, weight_NE, keep=0.0)
    whole = started.updated(table, weight_NE)

    assert started.online
    assert np.allclose(online.coef_EMD_, whole.coef_EMD_)
    assert np.allclose(online.variance_EM_, whole.variance_EM_)
    assert np.allclose(forgot.coef_EMD_, whole.coef_EMD_)


def test_some_of_the_experts():
    table, weight_NE = drawn()
    experts = LinearExperts().started(table, 3).updated(table, weight_NE)
    some = experts.only(np.array([2, 0]))

    assert np.array_equal(some.output(table.X), experts.output(table.X)[:, [2, 0]])
    assert np.array_equal(some.log_density(table.X, table.y), experts.log_density(table.X, table.y)[:, [2, 0]])
    assert some.n_parameters == 2 * 2 * (3 + 1 + 1)
    assert len(experts.only(np.array([True, False, True])).coef_EMD_) == 2


def test_they_refuse_classes_and_impossible_parameters():
    table, _ = drawn()
    with pytest.raises(ValueError, match=r"^expert: must predict classes, got LinearExperts; use LogisticExperts$"):
        LinearExperts().started(table._replace(num_classes=2), 2)
    with pytest.raises(ValueError, match=r"^alpha: must not be negative"):
        LinearExperts(alpha=-1).started(table, 2)
    with pytest.raises(ValueError, match=r"^variance_floor: must be positive"):
        LinearExperts(variance_floor=0).started(table, 2)
