"""A table is divided among experts where rows held out say that this is worth while."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

from sparsemix.classic import EstimatorExperts, MoERegressor, SoftmaxGate
from sparsemix.classic.em.assign import Soft
from sparsemix.classic.em.loop import Stopping
from sparsemix.classic.fitting.mixtures import Plan, fit_from, started
from sparsemix.classic.fitting.undivided import or_undivided
from sparsemix.classic.parts import Table

SMOOTH = GaussianProcessRegressor(ConstantKernel(1.0) * RBF(0.3), alpha=1e-8, normalize_y=True)
NOISY = GaussianProcessRegressor(ConstantKernel(1.0) * RBF(0.3) + WhiteKernel(0.1, (1e-6, 10)), normalize_y=True)


@pytest.fixture(autouse=True)
def _kernels_may_end_at_their_bounds():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def line(rows):
    return np.linspace(0, 1, rows)[:, None]


def undivided(model, X):
    """Whether all experts are the fit of all rows, in equal shares."""
    outputs_NE = np.stack([expert.output(X)[:, 0] for expert in model.experts_.experts_E_], axis=1)
    return np.ptp(outputs_NE, axis=1).max() == 0 and np.allclose(model.gate(X), 1 / model.n_experts_)


def error(model, X, expected):
    return np.sqrt(np.mean((model.predict(X) - expected) ** 2)) / expected.std()


def test_one_smooth_law_stays_one():
    X, between = line(14), line(101)
    model = MoERegressor(SMOOTH).fit(X, np.sin(5 * X[:, 0]))
    alone = MoERegressor(SMOOTH, n_experts=1).fit(X, np.sin(5 * X[:, 0]))
    assert undivided(model, X)
    assert (model.n_experts_, model.n_iter_, model.converged_) == (2, 1, True)
    np.testing.assert_allclose(model.predict(between), alone.predict(between), rtol=1e-9)
    assert model.objective_path_[-1] == pytest.approx(alone.objective_path_[-1])
    np.testing.assert_allclose(model.responsibilities(X, np.sin(5 * X[:, 0])), 0.5)


def test_two_laws_are_divided():
    def law(X):
        return np.where(X[:, 0] < 0.5, np.sin(10 * X[:, 0]), 4 + X[:, 0] ** 2)

    X, between = line(30), line(301)
    model, alone = (MoERegressor(SMOOTH, n_experts=number).fit(X, law(X)) for number in (2, 1))
    owner_N = model.gate(X).argmax(axis=1)
    assert not undivided(model, X)
    assert len(set(owner_N[:15])) == len(set(owner_N[15:])) == 1
    assert model.score_samples(between, law(between)).mean() > alone.score_samples(between, law(between)).mean() + 1


def test_laws_that_the_gate_cannot_tell_apart_are_not_divided():
    """A law in the middle and another at both ends: a better density than that of one process, and no mean."""

    def law(X):
        return np.select([X[:, 0] < 0.4, X[:, 0] < 0.8], [X[:, 0] ** 2, 3 * X[:, 0] + 1], np.sin(10 * X[:, 0]))

    X, between = line(40), line(301)
    model = MoERegressor(SMOOTH).fit(X, law(X))
    assert undivided(model, X)
    assert error(model, between, law(between)) < 0.4


def test_two_noises_are_divided():
    """One process has the same mean, nearly, and the wrong variance everywhere."""
    X, random = line(120), np.random.default_rng(0)
    y, other = np.sin(3 * X[:, 0]) + np.where(X[:, 0] < 0.5, 0.02, 0.5) * random.normal(size=(2, 120))
    model, alone = (MoERegressor(NOISY, n_experts=number).fit(X, y) for number in (2, 1))
    assert not undivided(model, X)
    assert model.score_samples(X, other).mean() > alone.score_samples(X, other).mean() + 0.3


def test_a_warm_start_does_not_divide_it_either():
    X = line(14)
    model = MoERegressor(SMOOTH, warm_start=True).fit(X, np.sin(5 * X[:, 0]))
    before = model.predict(line(101))
    np.testing.assert_array_equal(model.fit(X, np.sin(5 * X[:, 0])).predict(line(101)), before)


@pytest.mark.parametrize(
    ("template", "classes"), [(KNeighborsRegressor(5), None), (KNeighborsClassifier(5), 2)], ids=["numbers", "classes"]
)
def test_held_out_folds_speak_against_a_needless_division(template, classes):
    """Every other row to another expert: each learns the one law from half of the rows."""
    X, random = line(200), np.random.default_rng(0)
    y = np.sin(20 * X) + 0.1 * random.normal(size=X.shape)
    table = Table(X, y if classes is None else (y[:, 0] > 0).astype(int), np.ones(200), classes)
    parity_NE = np.eye(2)[np.arange(200) % 2]
    kept = {}
    for folds in (5, None):
        experts = EstimatorExperts(template, cross_fit=folds, random_state=0)
        plan = Plan(experts, SoftmaxGate(), (), Soft(), Stopping(1, 1e-6))
        undivided = started(plan, table, 2)
        run = fit_from(plan, undivided, table, parity_NE)
        kept[folds] = or_undivided(run, undivided, table, plan.observe)
    assert kept[5].mixture is not run.mixture
    assert (kept[5].responsibility_NE == 0.5).all()
    assert kept[None] is run  # what experts say of rows that they were fitted to tells nothing
