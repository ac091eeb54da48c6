"""What every gate has in common: probabilities, weights as repetitions, M steps that rise, experts left out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.special import logsumexp
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.preprocessing import SplineTransformer
from sklearn.utils import get_tags

from sparsemix.classic.gates import ClassifierGate, ConstantGate, GaussianGate, SoftmaxGate
from sparsemix.classic.numeric.multinomial import normalised
from sparsemix.classic.parts import Table

EXACT = [
    SoftmaxGate(),
    SoftmaxGate(alpha=0.0, steps=5),
    SoftmaxGate(features=SplineTransformer(4)),
    ConstantGate(),
    GaussianGate(),
    GaussianGate("diag", alpha=0.1),
]
EVERY = [*EXACT, ClassifierGate(LogisticRegression(tol=1e-10, max_iter=1000))]
ONLINE = [SoftmaxGate(), ConstantGate(), GaussianGate(), ClassifierGate(SGDClassifier(loss="log_loss", random_state=0))]


def situation(seed, rows=40, experts=3):
    """A table with weights 0, 1, 2 and responsibilities."""
    random = np.random.default_rng(seed)
    X = random.normal(3, 2, size=(rows, 2))
    weight_N = random.integers(0, 3, size=rows).astype(float)
    weight_N[:2] = 1
    responsibility_NE = random.dirichlet(np.full(experts, 0.3), size=rows)
    return Table(X, np.zeros((rows, 1)), weight_N), responsibility_NE


def fitted(gate, seed=0):
    table, responsibility_NE = situation(seed)
    return gate.started(table, 3).updated(table, responsibility_NE)


def objective(gate, table, responsibility_NE):
    return table.weight_N @ (responsibility_NE * gate.log_scores(table.X)).sum(axis=1) - gate.penalty


@pytest.mark.parametrize("gate", EVERY, ids=repr)
def test_a_started_gate_prefers_no_expert(gate):
    table, _ = situation(0)
    log_NE = normalised(gate.started(table, 3).log_scores(table.X))
    np.testing.assert_allclose(log_NE, -np.log(3))


@pytest.mark.parametrize("gate", EVERY, ids=repr)
def test_updates_leave_the_gate_as_it_was(gate):
    table, responsibility_NE = situation(0)
    started = gate.started(table, 3)
    before_NE = started.log_scores(table.X)
    started.updated(table, responsibility_NE)
    np.testing.assert_array_equal(started.log_scores(table.X), before_NE)
    assert not [name for name in vars(gate) if name.endswith("_")]
    assert clone(gate).get_params().keys() == gate.get_params().keys()


@settings(max_examples=25)
@pytest.mark.parametrize("gate", EXACT, ids=repr)
@given(seed=st.integers(0, 2**32 - 1))
def test_no_update_lowers_the_objective(gate, seed):
    assert gate.exact
    table, responsibility_NE = situation(seed)
    gate = gate.started(table, 3)
    for _ in range(3):
        before = objective(gate, table, responsibility_NE)
        gate = gate.updated(table, responsibility_NE)
        assert objective(gate, table, responsibility_NE) >= before - 1e-9
        responsibility_NE = np.exp(normalised(gate.log_scores(table.X) + np.log(responsibility_NE + 1e-9)))


WEIGHTED = [gate for gate in EVERY if gate.get_params().get("features") is None]
"""Without transformers, which take their knots from rows, whatever their weights."""


@settings(max_examples=10)
@pytest.mark.parametrize("gate", WEIGHTED, ids=repr)
@given(seed=st.integers(0, 2**32 - 1))
def test_weights_are_repetitions(gate, seed):
    table, responsibility_NE = situation(seed)
    count_N = table.weight_N.astype(int)
    repeated = Table(table.X.repeat(count_N, axis=0), table.y.repeat(count_N, axis=0), np.ones(count_N.sum()))
    weighted = gate.started(table, 3).updated(table, responsibility_NE)
    other = gate.started(repeated, 3).updated(repeated, responsibility_NE.repeat(count_N, axis=0))
    tolerance = 1e-7 if gate.exact else 1e-3
    np.testing.assert_allclose(weighted.log_scores(table.X), other.log_scores(table.X), atol=tolerance)
    assert weighted.penalty == pytest.approx(other.penalty)
    assert weighted.n_parameters == other.n_parameters


@pytest.mark.parametrize("gate", EVERY, ids=repr)
@pytest.mark.parametrize("keep_E", [np.array([2, 0]), np.array([True, False, True]), np.array([1])])
def test_only_some_experts_renormalise(gate, keep_E):
    gate, X = fitted(gate), situation(1)[0].X
    kept = gate.only(keep_E)
    np.testing.assert_allclose(normalised(kept.log_scores(X)), normalised(gate.log_scores(X)[:, keep_E]), atol=1e-9)
    if keep_E.dtype != bool:
        again = kept.only(np.array([0]))
        np.testing.assert_allclose(normalised(again.log_scores(X)), 0, atol=1e-12)


@pytest.mark.parametrize("gate", EVERY, ids=repr)
def test_a_gate_fits_the_experts_that_are_left(gate):
    table, responsibility_NE = situation(0)
    kept = fitted(gate).only(np.array([2, 0])).updated(table, responsibility_NE[:, :2] + responsibility_NE[:, 2:] / 2)
    assert kept.log_scores(table.X).shape == (40, 2)


@pytest.mark.parametrize("gate", EVERY, ids=repr)
def test_an_expert_without_rows_stays_a_number(gate):
    table, responsibility_NE = situation(0)
    responsibility_NE[:, 1] = 0
    responsibility_NE /= responsibility_NE.sum(axis=1, keepdims=True)
    gate = gate.started(table, 3)
    for _ in range(3):
        gate = gate.updated(table, responsibility_NE)
    log_NE = normalised(gate.log_scores(table.X))
    assert np.isfinite(log_NE).all()
    assert log_NE[table.weight_N > 0, 1].max() < -1
    assert np.isfinite(gate.penalty)


@pytest.mark.parametrize("gate", [*EXACT[:2], *EXACT[3:], EVERY[-1]], ids=repr)
def test_sparse_and_float32_are_taken(gate):
    table, responsibility_NE = situation(0)
    X = np.round(table.X)
    expected_NE = normalised(_scores(gate, table._replace(X=X), responsibility_NE))
    for same in (X.astype(np.float32), sparse.csr_matrix(X)):
        actual_NE = normalised(_scores(gate, table._replace(X=same), responsibility_NE))
        np.testing.assert_allclose(actual_NE, expected_NE, atol=1e-5 if gate.exact else 1e-3)


def _scores(gate, table, responsibility_NE):
    gate = gate.started(table, 3)
    for _ in range(20):
        gate = gate.updated(table, responsibility_NE)
    return gate.log_scores(table.X)


@pytest.mark.parametrize("gate", EXACT, ids=repr)
def test_prepared_columns_are_as_good_as_x(gate):
    table, responsibility_NE = situation(0)
    gate = gate.started(table, 3)
    prepared = gate.prepared(table.X)
    expected = gate.updated(table, responsibility_NE)
    actual = gate.updated(table._replace(X=prepared), responsibility_NE)
    np.testing.assert_array_equal(actual.log_scores(prepared), expected.log_scores(table.X))


@pytest.mark.parametrize("gate", ONLINE, ids=repr)
def test_online_updates_learn_what_a_fit_learns(gate):
    random = np.random.default_rng(0)
    X = random.normal(size=(3000, 2))
    scores = np.column_stack([2 * X[:, 0], -X[:, 0] + X[:, 1], np.zeros(3000)])
    responsibility_NE = np.exp(normalised(scores))
    table = Table(X, np.zeros((3000, 1)), np.ones(3000))
    assert gate.online
    online = gate.started(table.rows(np.arange(300)), 3)
    for first in range(0, 3000, 300):
        rows = np.arange(first, first + 300)
        online = online.partially_updated(table.rows(rows), responsibility_NE[rows], keep=1.0)
    whole = gate.started(table, 3)
    for _ in range(10):
        whole = whole.updated(table, responsibility_NE)
    error = np.abs(np.exp(normalised(online.log_scores(X))) - np.exp(normalised(whole.log_scores(X)))).mean()
    assert error < (0.01 if gate.exact else 0.1)


@pytest.mark.parametrize("gate", [g for g in ONLINE if g.exact], ids=repr)
def test_online_updates_forget_what_is_not_kept(gate):
    table, responsibility_NE = situation(0)
    gate = gate.started(table, 3)
    told = gate.partially_updated(table, responsibility_NE, keep=1.0)
    for _ in range(30):
        told = told.partially_updated(table, responsibility_NE[:, ::-1], keep=0.5)
        gate = gate.partially_updated(table, responsibility_NE[:, ::-1], keep=0.5)
    np.testing.assert_allclose(normalised(told.log_scores(table.X)), normalised(gate.log_scores(table.X)), atol=0.05)


@pytest.mark.parametrize(("gate", "takes"), [
    (SoftmaxGate(), True),
    (GaussianGate(), True),
    (ConstantGate(), True),
    (ClassifierGate(LogisticRegression()), False),
    (SoftmaxGate(features=SplineTransformer()), False),
])  # fmt: skip
def test_tags_say_what_x_may_be(gate, takes):
    assert get_tags(gate).input_tags.allow_nan == takes
    if not takes:
        return
    table, responsibility_NE = situation(0)
    table.X[::5, 0] = np.nan
    assert np.isfinite(_scores(gate, table, responsibility_NE)).all()


def test_gates_that_model_x_say_how_probable_it_is():
    table, _ = situation(0)
    near, far = logsumexp(fitted(GaussianGate()).log_scores(np.array([table.X.mean(axis=0), [100.0, 100.0]])), axis=1)
    assert near > far + 10
