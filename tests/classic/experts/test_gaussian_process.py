"""Gaussian processes as experts."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, WhiteKernel
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sparsemix.classic.experts import EstimatorExperts
from sparsemix.classic.experts.gaussian_process import fit_process
from sparsemix.classic.parts import Table


def waves(rows=60, noise=0.3):
    random = np.random.default_rng(0)
    X = random.uniform(-3, 3, size=(rows, 1))
    return X, np.sin(X[:, 0]) + noise * random.normal(size=rows)


def test_a_weight_is_noise_divided_by_it():
    X, y = waves(rows=20)
    weight_N = np.linspace(0.1, 1, 20)
    process = fit_process(GaussianProcessRegressor(RBF(1.0), alpha=0.2, optimizer=None), X, y, weight_N, noise=0.2)
    kernel_NN = RBF(1.0)(X)
    inverse_NN = np.linalg.inv(kernel_NN + np.diag(0.2 / weight_N))
    mean_N, variance_N = (values[:, 0] for values in process.mean_and_variance(X))

    assert np.allclose(mean_N, kernel_NN @ inverse_NN @ y)
    assert np.allclose(variance_N, 1 - np.diag(kernel_NN @ inverse_NN @ kernel_NN))


def test_a_whole_weight_is_a_repeated_row():
    X, y = waves(rows=10)
    times_N = np.array([1, 2] * 5)
    template = GaussianProcessRegressor(RBF(1.0), alpha=0.2, optimizer=None)
    weighted = fit_process(template, X, y, times_N.astype(float), noise=0.2)
    repeated = fit_process(template, np.repeat(X, times_N, 0), np.repeat(y, times_N), np.ones(15), noise=0.2)

    assert np.allclose(weighted.mean_and_variance(X), repeated.mean_and_variance(X))


@pytest.mark.parametrize("normalize_y", [False, True])
def test_white_noise_is_no_part_of_the_variance_of_the_function(normalize_y):
    X, y = waves()
    y = 5 * y + 2
    white = GaussianProcessRegressor(RBF(1.0) + WhiteKernel(0.1), optimizer=None, normalize_y=normalize_y)
    stated = GaussianProcessRegressor(RBF(1.0), alpha=0.1, optimizer=None, normalize_y=normalize_y)
    both = [fit_process(template, X, y, np.ones(60), 0.0).mean_and_variance(X) for template in (white, stated)]

    assert np.allclose(both[0], both[1])


def test_the_noise_is_learned_and_doubt_widens_the_density():
    X, y = waves(rows=150)
    table = Table(X, y[:, None], np.ones(150))
    template = make_pipeline(StandardScaler(), GaussianProcessRegressor(RBF(0.5) + WhiteKernel(0.09), optimizer=None))
    experts = EstimatorExperts(template, random_state=0).started(table, 2)
    experts = experts.updated(table, np.random.default_rng(1).dirichlet(np.ones(2), size=150))
    near, far = experts.variance(np.array([[0.0]])), experts.variance(np.array([[30.0]]))

    assert near.shape == (1, 2, 1)
    assert np.allclose(near, 0.09, rtol=0.4)
    assert np.allclose(far - near, 1, atol=0.1)
    log_NE, mean_NEM = experts.log_density(X, table.y), experts.output(X)
    expected_NE = norm(mean_NEM[..., 0], np.sqrt(experts.variance(X)[..., 0])).logpdf(table.y)
    assert np.allclose(log_NE, expected_NE)


def test_noise_from_rows_held_out():
    X, y = waves(rows=150)
    table = Table(X, np.column_stack([y, -2 * y]), np.ones(150))
    template = GaussianProcessRegressor(RBF(1.0), alpha=0.09, optimizer=None)
    experts = EstimatorExperts(template, cross_fit=5, random_state=0).started(table, 1)
    noise_M = experts.experts_E_[0].noise_M

    assert np.allclose(noise_M, [0.09, 0.36], rtol=0.3)
    assert len(experts.experts_E_[0].functions) == 2
