"""The Gaussian gate against plain loops."""

import numpy as np
import pytest
from scipy import stats
from scipy.special import softmax

from sparsemix.classic.gates import GaussianGate
from sparsemix.classic.parts import Table
from tests.classic.tables import whole


def clouds(rows=60):
    random = np.random.default_rng(0)
    X = np.vstack([random.normal(0, 1, (rows // 2, 2)), random.normal(3, [0.5, 2.0], (rows // 2, 2))])
    return Table(X, np.zeros((rows, 1)), random.random(rows)), random.dirichlet([1, 1], size=rows)


def plain_m_step(z_ND, weight_N, responsibility_NE, alpha, diagonal):
    """Shares, means and covariances, row by row."""
    parts = []
    for e in range(responsibility_NE.shape[1]):
        total = sum(w * h[e] for w, h in zip(weight_N, responsibility_NE, strict=True))
        mean = sum(w * h[e] * z for w, h, z in zip(weight_N, responsibility_NE, z_ND, strict=True)) / total
        scatter = np.zeros((2, 2))
        for w, h, z in zip(weight_N, responsibility_NE, z_ND, strict=True):
            scatter += w * h[e] * np.outer(z - mean, z - mean)
        if diagonal:
            scatter = np.diag(np.diag(scatter))
        parts.append((total / weight_N.sum(), mean, (scatter + alpha * np.eye(2)) / (total + alpha)))
    return parts


def plain_log_joint(z_ND, parts):
    return np.column_stack([np.log(pi) + stats.multivariate_normal.logpdf(z_ND, mu, sigma) for pi, mu, sigma in parts])


@pytest.mark.parametrize("covariance", ["full", "diag"])
def test_em_of_a_gaussian_mixture_is_a_plain_loop(covariance):
    table, responsibility_NE = clouds()
    gate = GaussianGate(covariance, alpha=0.5).started(table, 2)
    z_ND, expected_NE = whole(gate.design_.columns(table.X)), responsibility_NE
    for _ in range(10):
        gate = gate.updated(table, responsibility_NE)
        parts = plain_m_step(z_ND, table.weight_N, expected_NE, 0.5, covariance == "diag")
        np.testing.assert_allclose(gate.log_scores(table.X), plain_log_joint(z_ND, parts), rtol=1e-9)
        responsibility_NE = softmax(gate.log_scores(table.X), axis=1)
        expected_NE = softmax(plain_log_joint(z_ND, parts), axis=1)
    sigma_EDD = np.array([sigma for _, _, sigma in parts])
    traces = sum(np.trace(np.linalg.inv(sigma)) + np.linalg.slogdet(sigma)[1] for sigma in sigma_EDD)
    assert gate.penalty == pytest.approx(0.25 * traces)


@pytest.mark.parametrize("covariance", ["full", "diag"])
def test_the_m_step_is_a_maximum(covariance):
    table, responsibility_NE = clouds()
    gate = GaussianGate(covariance).started(table, 2).updated(table, responsibility_NE)

    def objective(mean_ED, value):
        moved = gate.updated(table, responsibility_NE)
        moved.mean_ED_, moved.covariance_ = mean_ED, type(gate.covariance_)(value)
        return table.weight_N @ (responsibility_NE * moved.log_scores(table.X)).sum(axis=1) - moved.penalty

    best = objective(gate.mean_ED_, gate.covariance_[0])
    random = np.random.default_rng(1)
    for _ in range(20):
        change = random.normal(0, 0.01, size=gate.covariance_[0].shape)
        change = change + change.swapaxes(-1, -2) if covariance == "full" else change
        mean_ED = gate.mean_ED_ + random.normal(0, 0.01, size=(2, 2))
        assert objective(mean_ED, gate.covariance_[0] + change) < best


@pytest.mark.parametrize(("covariance", "each"), [("full", 3 + 6), ("diag", 3 + 3)])
def test_parameters_are_counted(covariance, each):
    table = Table(np.random.default_rng(0).normal(size=(9, 3)), np.zeros((9, 1)), np.ones(9))
    assert GaussianGate(covariance).started(table, 4).n_parameters == 3 * (1 + each)
    assert GaussianGate(covariance).started(table, 1).n_parameters == 0  # the density is that of the expert alone


def test_twin_columns_are_no_singular_covariance():
    X = np.repeat(np.random.default_rng(0).normal(size=(50, 1)), 2, axis=1)
    table = Table(X, np.zeros((50, 1)), np.ones(50))
    gate = GaussianGate(alpha=1e-6).started(table, 2).updated(table, np.eye(2)[(X[:, 0] > 0).astype(int)])
    assert np.isfinite(gate.log_scores(X)).all()


@pytest.mark.parametrize(("gate", "message"), [
    (GaussianGate("tied"), "covariance: must be 'full' or 'diag', got 'tied'"),
    (GaussianGate(alpha=0.0), "alpha: must be at least 1e-6"),
])  # fmt: skip
def test_bad_parameters_are_refused(gate, message):
    with pytest.raises(ValueError, match=message):
        gate.started(clouds()[0], 2)
