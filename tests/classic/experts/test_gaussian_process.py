"""Gaussian processes as experts."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.base import clone
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sparsemix.classic.experts import EstimatorExperts, likelihood_search
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


@pytest.mark.parametrize("white", [0.0, 0.1])
def test_rows_are_left_out_as_by_fits_without_them(white):
    X, y = waves(rows=15)
    weight_N = np.linspace(0.2, 2, 15)
    kernel = RBF(1.0) + WhiteKernel(white) if white else RBF(1.0)
    template = GaussianProcessRegressor(kernel, alpha=0.2, optimizer=None)
    residual_N, variance_N = (values[:, 0] for values in fit_process(template, X, y, weight_N, noise=0.2).left_out())

    for row in range(15):
        others = np.arange(15) != row
        without = fit_process(template, X[others], y[others], weight_N[others], noise=0.2)
        mean, variance = (values[0, 0] for values in without.mean_and_variance(X[[row]]))
        assert np.isclose(residual_N[row], y[row] - mean)
        assert np.isclose(variance_N[row], variance)


def test_the_unit_of_targets_is_that_of_what_is_left_out():
    X, y = waves(rows=15)
    template = GaussianProcessRegressor(RBF(1.0), alpha=0.2, optimizer=None, normalize_y=True)
    one, ten = (fit_process(template, X, scale * y, np.ones(15), noise=0.0).left_out() for scale in (1, 10))

    assert np.allclose(ten[0], 10 * one[0])
    assert np.allclose(ten[1], 100 * one[1])


def test_a_process_gives_away_a_row_that_it_goes_through():
    """The first row of another law: the process that has it hits it, but would not have without it."""
    X = np.linspace(0, 1, 40)[:, None]
    table = Table(X, np.where(X < 0.5, np.sin(12 * X), 3 + X), np.ones(40))
    template = GaussianProcessRegressor(RBF(0.1), alpha=1e-6, optimizer=None, normalize_y=True)
    share_N = np.where(X[:, 0] < 0.6, 0.95, 0.05)  # four rows too far
    experts = EstimatorExperts(template, random_state=0).started(table, 2)
    experts = experts.updated(table, np.column_stack([share_N, 1 - share_N]))
    judged, sure = (log_NE[20] for log_NE in (experts.training_log_density(table), experts.log_density(X, table.y)))

    assert judged[0] < judged[1]
    assert sure[0] > sure[1]


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


def bowl(seed=3):
    """A paraboloid without noise, whose likelihood has a long ridge, and processes as one would write them for it."""
    X = np.random.default_rng(seed).uniform(-1.7, 1.7, size=(40, 2))
    kernel = ConstantKernel(1.0, (1e-3, 1e6)) * RBF(np.ones(2), (1e-2, 1e3))
    return X, (X**2).sum(axis=1), GaussianProcessRegressor(kernel, alpha=1e-10, normalize_y=True)


def likelihood_of(process):
    return process.fitted.log_marginal_likelihood_value_


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_likelihood_is_climbed_past_where_one_climb_stops():
    X, y, template = bowl()
    alone = clone(template).fit(X, y)
    process = fit_process(template, X, y, np.ones(40), noise=0.0)

    assert likelihood_of(process) > alone.log_marginal_likelihood_value_ + 20
    assert process.fitted.optimizer == template.optimizer


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_climb_that_is_lost_on_a_slope_is_led_away(monkeypatch):
    X, y, template = bowl(seed=0)
    template.set_params(alpha=1e-12)
    found = fit_process(template, X, y, np.ones(40), noise=0.0)
    monkeypatch.setattr(likelihood_search, "FLAT", np.inf)
    lost = fit_process(template, X, y, np.ones(40), noise=0.0)

    assert likelihood_of(found) > likelihood_of(lost) + 10


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_poor_place_to_start_from_is_left():
    X, y = waves()
    near, far = (  # a hundredth of the distance of rows: all are strangers, and the likelihood is flat
        GaussianProcessRegressor(RBF(length, (1e-6, 1e3)), alpha=0.1, normalize_y=True) for length in (1.0, 1e-4)
    )
    good, poor = (fit_process(template, X, y, np.ones(60), noise=0.1) for template in (near, far))

    assert clone(far).fit(X, y).log_marginal_likelihood_value_ < likelihood_of(good) - 10
    assert likelihood_of(poor) > likelihood_of(good) - 0.01


def test_a_process_goes_on_from_its_last_fit():
    X, y = waves()
    template = GaussianProcessRegressor(RBF(1.0) + WhiteKernel(0.1))
    first = fit_process(template, X, y, np.ones(60), noise=0.0)
    weight_N = np.linspace(0.5, 1, 60)
    again, anew = fit_process(template, X, y, weight_N, 0.0, first), fit_process(template, X, y, weight_N, 0.0)

    assert np.allclose(again.fitted.kernel_.theta, anew.fitted.kernel_.theta, atol=0.05)
    assert again.fitted.kernel == template.kernel


def test_the_users_own_optimizer_is_left_alone():
    asked = []

    def optimizer(loss, theta, bounds):
        asked.append(theta)
        return theta + 0.1, loss(theta + 0.1, eval_gradient=False)

    X, y = waves()
    template = GaussianProcessRegressor(RBF(1.0), alpha=0.1, optimizer=optimizer)
    first = fit_process(template, X, y, np.ones(60), noise=0.1)
    fit_process(template, X, y, np.ones(60), noise=0.1, before=first)

    assert len(asked) == 2
    assert np.allclose(asked, 0)
