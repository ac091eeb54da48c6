"""Logistic experts against scikit-learn's, and what EM needs of them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from sparsemix.classic import MoEClassifier, SoftmaxGate
from sparsemix.classic.experts import LogisticExperts
from sparsemix.classic.parts import Table


def drawn(rows=90, classes=3, n_experts=2, seed=0):
    random = np.random.default_rng(seed)
    X = random.normal(size=(rows, 2)) * [1, 10] + [0, 5]
    score_NK = (X - [0, 5]) / [1, 10] @ random.normal(size=(2, classes)) + random.gumbel(size=(rows, classes))
    table = Table(X, score_NK.argmax(axis=1), random.integers(0, 3, rows).astype(float), classes)
    return table, table.weight_N[:, None] * random.dirichlet(np.ones(n_experts), size=rows)


def converged(table, weight_NE, **parameters):
    return LogisticExperts(steps=100, **parameters).started(table, weight_NE.shape[1]).updated(table, weight_NE)


def standardised(table):
    mean_D = np.average(table.X, axis=0, weights=table.weight_N)
    return (table.X - mean_D) / np.sqrt(np.average((table.X - mean_D) ** 2, axis=0, weights=table.weight_N))


def q(experts, table, weight_NE):
    return (weight_NE * experts.log_density(table.X, table.y)).sum() - experts.penalty


@pytest.mark.parametrize("alpha", [0.1, 2.0])
def test_the_m_step_is_weighted_logistic_regression(alpha):
    table, weight_NE = drawn()
    experts = converged(table, weight_NE, alpha=alpha)
    z_ND = standardised(table)

    for expert in range(2):
        peer = LogisticRegression(C=1 / alpha, tol=1e-10, max_iter=1000).fit(z_ND, table.y, weight_NE[:, expert])
        assert np.allclose(experts.output(table.X)[:, expert], peer.predict_proba(z_ND), atol=1e-5)
        assert np.allclose(experts.output_of(expert, table.X), experts.output(table.X)[:, expert])


def test_the_density_is_the_probability_of_the_class():
    table, weight_NE = drawn(rows=5000)
    experts = converged(table, weight_NE)
    output_NEK = experts.output(table.X)

    assert np.allclose(output_NEK.sum(axis=2), 1)
    assert np.allclose(np.exp(experts.log_density(table.X, table.y)), output_NEK[np.arange(5000), :, table.y])


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6), classes=st.integers(2, 4), alpha=st.sampled_from([0.0, 0.1]), steps=st.integers(1, 3)
)
def test_the_m_step_never_lowers_what_em_maximises(seed, classes, alpha, steps):
    table, weight_NE = drawn(30, classes, seed=seed)
    before = LogisticExperts(alpha, steps).started(table, 2).updated(table, weight_NE[::-1])
    after = before.updated(table, weight_NE)

    assert np.isfinite(after.output(table.X)).all()
    assert q(after, table, weight_NE) >= q(before, table, weight_NE) - 1e-9 * abs(q(before, table, weight_NE))


def test_a_weight_is_a_repeated_row():
    table, _ = drawn()
    times_N = table.weight_N.astype(int)
    many = Table(np.repeat(table.X, times_N, axis=0), np.repeat(table.y, times_N), np.ones(times_N.sum()), 3)
    share_NE = np.random.default_rng(1).dirichlet(np.ones(2), size=len(times_N))
    weighted = converged(table, times_N[:, None] * share_NE)
    repeated = converged(many, np.repeat(share_NE, times_N, axis=0))

    assert np.allclose(weighted.output(table.X), repeated.output(table.X), atol=1e-9)


def test_float32_and_sparse_rows_give_what_dense_rows_give():
    table, weight_NE = drawn()
    single = table.X.astype(np.float32)
    dense = converged(table._replace(X=single.astype(float)), weight_NE)
    for X in (single, sparse.csr_array(single), sparse.csr_matrix(single.astype(float))):
        experts = converged(table._replace(X=X), weight_NE)
        assert np.allclose(experts.output(X), dense.output(table.X), atol=1e-5)


def test_classes_that_an_expert_has_no_rows_of_become_improbable():
    table, weight_NE = drawn()
    weight_NE[table.y == 1, 0] = 0
    experts = converged(table, weight_NE)

    assert np.isfinite(experts.log_density(table.X, table.y)).all()
    assert experts.output(table.X)[:, 0, 1].max() < 1e-3


@pytest.mark.parametrize("em", ["soft", "hard"])
def test_without_a_penalty_a_separable_table_has_a_finite_answer(em):
    X = np.random.default_rng(0).normal(size=(300, 3))
    y = np.digitize(X[:, 0], [-0.5, 0.5])
    model = MoEClassifier(LogisticExperts(alpha=0), n_experts=3, gating=SoftmaxGate(alpha=0), em=em, max_iter=20)
    model.fit(X, y)
    assert max(np.abs(logits.coef_KD).max() for logits in model.experts_.logits_E_) < 1e5
    assert np.abs(model.gate_.logits_.coef_KD).max() < 1e5
    assert model.score(X, y) == 1


def test_an_expert_without_rows_stays_as_it_was():
    table, weight_NE = drawn()
    before = converged(table, weight_NE)
    after = before.updated(table, weight_NE * [0, 1])
    online = before.partially_updated(table, weight_NE * [0, 1], keep=0.5)

    assert after.logits_E_[0] is before.logits_E_[0]
    assert online.logits_E_[0] is before.logits_E_[0]


def test_parts_of_a_table_lead_near_the_whole():
    table, weight_NE = drawn(rows=600)
    whole = converged(table, weight_NE)
    first = np.arange(600) < 200
    online = LogisticExperts(steps=100).started(table.rows(first), 2).updated(table.rows(first), weight_NE[first])
    before = np.abs(online.output(table.X) - whole.output(table.X)).mean()
    for rows in (np.arange(200, 400), np.arange(400, 600)):
        online = online.partially_updated(table.rows(rows), weight_NE[rows], keep=1.0)

    assert online.online
    assert np.abs(online.output(table.X) - whole.output(table.X)).mean() < 0.3 * before


def test_some_of_the_experts():
    table, weight_NE = drawn(n_experts=3)
    experts = converged(table, weight_NE)
    some = experts.only(np.array([2, 0]))

    assert np.allclose(some.output(table.X), experts.output(table.X)[:, [2, 0]])
    assert some.n_parameters == 2 * (3 - 1) * (2 + 1)
    assert some.penalty < experts.penalty


def test_they_refuse_numbers_and_impossible_parameters():
    table, _ = drawn()
    with pytest.raises(ValueError, match=r"^expert: must predict numbers, got LogisticExperts; use LinearExperts$"):
        LogisticExperts().started(table._replace(num_classes=None), 2)
    with pytest.raises(ValueError, match=r"^alpha: must not be negative"):
        LogisticExperts(alpha=-1).started(table, 2)
