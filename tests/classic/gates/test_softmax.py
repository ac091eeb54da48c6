"""The softmax gate: what it can separate, and what it refuses."""

import numpy as np
import pytest
from sklearn.preprocessing import PolynomialFeatures

from sparsemix.classic.gates import SoftmaxGate
from sparsemix.classic.numeric.multinomial import LARGE
from sparsemix.classic.parts import Table


def regions(inside_N):
    """Responsibilities of two experts, sure."""
    return np.column_stack([inside_N, ~inside_N]).astype(float)


def table_of(X):
    return Table(X, np.zeros((len(X), 1)), np.ones(len(X)))


def gate_after(gate, table, responsibility_NE, updates=20):
    gate = gate.started(table, responsibility_NE.shape[1])
    for _ in range(updates):
        gate = gate.updated(table, responsibility_NE)
    return np.exp(gate.log_scores(table.X))


def test_separable_regions_have_a_steep_edge():
    X = np.random.default_rng(0).uniform(-1, 1, size=(500, 3))
    p_NE = gate_after(SoftmaxGate(), table_of(X), regions(X[:, 1] > 0))
    assert np.abs(p_NE - regions(X[:, 1] > 0)).mean() < 0.01


def test_features_make_regions_that_are_not_linear():
    X = np.random.default_rng(0).uniform(-1, 1, size=(500, 2))
    disc_NE = regions((X**2).sum(axis=1) < 0.5)
    straight_NE = gate_after(SoftmaxGate(), table_of(X), disc_NE)
    round_NE = gate_after(SoftmaxGate(features=PolynomialFeatures(2)), table_of(X), disc_NE)
    assert np.abs(straight_NE - disc_NE).mean() > 0.3
    assert np.abs(round_NE - disc_NE).mean() < 0.02


def test_units_do_not_matter():
    X = np.random.default_rng(0).normal(size=(100, 2))
    responsibility_NE = np.random.default_rng(1).dirichlet([1, 1], size=100)
    plain_NE = gate_after(SoftmaxGate(), table_of(X), responsibility_NE)
    other_NE = gate_after(SoftmaxGate(), table_of(X * [1e-6, 1e6] + [1.0, -1e6]), responsibility_NE)
    np.testing.assert_allclose(other_NE, plain_NE, atol=1e-7)


def test_parameters_are_those_of_one_expert_fewer():
    table = table_of(np.random.default_rng(0).normal(size=(10, 4)))
    assert SoftmaxGate().started(table, 3).n_parameters == 2 * 5
    assert SoftmaxGate().started(table, 1).n_parameters == 0


def test_a_wide_table_is_fitted():
    random = np.random.default_rng(0)
    X = random.normal(size=(200, LARGE + 10))
    p_NE = gate_after(SoftmaxGate(), table_of(X), regions(X[:, 0] > 0), updates=5)
    assert np.abs(p_NE - regions(X[:, 0] > 0)).mean() < 0.01


def test_a_wide_gate_does_not_learn_online():
    table = table_of(np.random.default_rng(0).normal(size=(20, LARGE)))
    gate = SoftmaxGate().started(table, 2)
    with pytest.raises(
        ValueError, match="partial_fit: must have gates and experts of under 500 coefficients, got 501; use fit"
    ):
        gate.partially_updated(table, regions(table.X[:, 0] > 0), keep=1.0)


def test_a_negative_penalty_is_refused():
    with pytest.raises(ValueError, match="alpha: must not be negative, got -1"):
        SoftmaxGate(alpha=-1).started(table_of(np.eye(3)), 2)


def test_online_learning_goes_on_from_a_fit():
    random = np.random.default_rng(0)
    X = random.normal(size=(1000, 2))
    table, sure_NE = table_of(X), regions(X[:, 0] + 0.5 * random.normal(size=1000) > 0)
    fitted = SoftmaxGate().started(table, 2).updated(table, sure_NE)
    few = table.rows(np.arange(10))
    after = fitted.partially_updated(few, sure_NE[:10, ::-1], keep=1.0)  # ten rows that say the contrary
    assert np.abs(np.exp(after.log_scores(X)) - np.exp(fitted.log_scores(X))).max() < 0.1
