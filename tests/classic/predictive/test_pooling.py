"""Pooling against plain loops over rows and experts, and stacking against its definition."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy import sparse
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.model_selection import KFold

from sparsemix.classic import LinearExperts, MoEClassifier, MoERegressor, SoftmaxGate
from sparsemix.classic.parts import Table
from sparsemix.classic.predictive.pooling import check_pooling, experts_asked, pooled, pooled_density, pooled_gate
from sparsemix.classic.predictive.stacking import Stack, best_stack, fit_stack

LOG_GATE_NE = np.log([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.25, 0.5, 0.25]])


@pytest.fixture(scope="module")
def table() -> Table:
    random = np.random.default_rng(0)
    X = random.uniform(-2, 2, size=(200, 2))
    y = np.where(X[:, 0] > 0.5, 3 * X[:, 1], np.where(X[:, 0] < -0.5, -2 * X[:, 1], 4.0))
    y_NM = np.column_stack([y, -y]) + 0.1 * random.normal(size=(200, 2))
    return Table(X, y_NM, np.ones(200))


@pytest.fixture(scope="module")
def model(table: Table) -> MoERegressor:
    return MoERegressor(n_experts=3, max_iter=20).fit(table.X, table.y)


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ("soft", [[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.25, 0.5, 0.25]]),
        ("hard", [[1, 0, 0], [0, 0, 1], [0, 1, 0]]),
        (1, [[1, 0, 0], [0, 0, 1], [0, 1, 0]]),
        (2, [[0.625, 0.375, 0], [0, 2 / 9, 7 / 9], [1 / 3, 2 / 3, 0]]),
        (3, [[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.25, 0.5, 0.25]]),
    ],
)
def test_gate(pooling, expected) -> None:
    shift_N1 = np.array([[0.0], [-900.0], [900.0]])  # a gate that models x gives rows that are not normalised
    np.testing.assert_allclose(pooled_gate(LOG_GATE_NE + shift_N1, pooling), expected, rtol=1e-12)


@pytest.mark.parametrize("pooling", ["soft", "hard", 1, 2, 3, Stack(0.5, np.array([0.3, 0.0, -1.0]))])
@pytest.mark.parametrize("block", [7, 1 << 13])
def test_pooled_by_plain_loops(model: MoERegressor, table: Table, pooling, block: int, monkeypatch) -> None:
    monkeypatch.setattr("sparsemix.classic.numeric.blocks.ROWS", block)
    gate_NE = pooled_gate(model.gate_.log_scores(table.X), pooling)
    out_NEM = model.experts_.output(table.X)
    expected_NM = np.zeros((200, 2))
    for n in range(200):
        for e in range(3):
            expected_NM[n] += gate_NE[n, e] * out_NEM[n, e]
    np.testing.assert_allclose(pooled(model.mixture_, table.X, pooling), expected_NM, rtol=1e-10, atol=1e-12)


def test_sparse_prediction_asks_only_the_chosen(model: MoERegressor, table: Table, monkeypatch) -> None:
    asked: Counter[int] = Counter()
    inner = type(model.experts_).output_of

    def counting(experts, expert: int, X):
        asked[expert] += len(X)
        return inner(experts, expert, X)

    monkeypatch.setattr(type(model.experts_), "output_of", counting)
    monkeypatch.setattr(type(model.experts_), "output", None)
    pooled(model.mixture_, table.X, 2)
    assert asked.total() == 2 * 200
    asked.clear()
    pooled(model.mixture_, table.X, "hard")
    np.testing.assert_array_equal(
        [asked[e] for e in range(3)], np.bincount(model.gate(table.X).argmax(axis=1), minlength=3)
    )


def test_sparse_and_float32_tables(model: MoERegressor, table: Table) -> None:
    expected = pooled(model.mixture_, table.X, 2)
    np.testing.assert_allclose(pooled(model.mixture_, sparse.csr_matrix(table.X), 2), expected, rtol=1e-10)
    narrow = pooled(model.mixture_, table.X.astype(np.float32), 2)
    assert narrow.dtype == np.float64
    np.testing.assert_allclose(narrow, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pooling", ["soft", "hard", 2])
def test_the_density_has_the_pooled_mean(model: MoERegressor, table: Table, pooling) -> None:
    density = pooled_density(model.mixture_, table.X, pooling, (2,))
    np.testing.assert_allclose(density.mean(), pooled(model.mixture_, table.X, pooling), rtol=1e-10, atol=1e-12)
    gate_NE = pooled_gate(model.gate_.log_scores(table.X), pooling)
    log_NE = np.log(np.maximum(gate_NE, 1e-300)) + model.experts_.log_density(table.X, table.y)
    np.testing.assert_allclose(density.logpdf(table.y), logsumexp(log_NE, axis=1), rtol=1e-9)


def test_hard_density_is_one_normal(model: MoERegressor, table: Table) -> None:
    density = pooled_density(model.mixture_, table.X, "hard", (2,))
    first_N = model.gate(table.X).argmax(axis=1)
    np.testing.assert_allclose(density.var(), model.experts_.variance(table.X)[0][first_N])


def test_classes_pool_to_probabilities() -> None:
    random = np.random.default_rng(0)
    X = random.normal(size=(90, 2))
    model = MoEClassifier(n_experts=3, max_iter=10).fit(X, (X[:, 0] * X[:, 1] > 0).astype(int))
    for pooling in ("soft", "hard", 2, Stack(0.3, np.array([1.0, 0.0, 0.0]))):
        np.testing.assert_allclose(pooled(model.mixture_, X, pooling).sum(axis=1), 1)


@pytest.mark.parametrize("pooling", ["soft", "hard", 2, "stacking"])
def test_the_density_of_rows_is_the_one_that_predicts(table: Table, pooling) -> None:
    pooled_model = MoERegressor(n_experts=3, max_iter=20, pooling=pooling).fit(table.X, table.y)
    expected_N = pooled_model.predict_dist(table.X).logpdf(table.y)
    np.testing.assert_allclose(pooled_model.score_samples(table.X, table.y), expected_N, rtol=1e-9)
    label_N = np.digitize(table.y[:, 0], [-1.0, 1.0])
    classifier = MoEClassifier(n_experts=3, max_iter=20, pooling=pooling).fit(table.X, label_N)
    expected_N = np.log(classifier.predict_proba(table.X)[np.arange(200), label_N])
    np.testing.assert_allclose(classifier.score_samples(table.X, label_N), expected_N, rtol=1e-9, atol=1e-12)
    soft = MoERegressor(n_experts=3, max_iter=20).fit(table.X, table.y)
    assert pooled_model.bic(table.X, table.y) == pytest.approx(soft.bic(table.X, table.y))


@pytest.mark.parametrize("pooling", ["softly", 0, 4, -1, 2.0, True, None, [1]])
def test_other_poolings_are_refused(pooling) -> None:
    with pytest.raises(ValueError, match=r"pooling: must be 'soft', 'hard', 'stacking' or .* 1\.\.3, got"):
        check_pooling(pooling, 3)


@pytest.mark.parametrize(("pooling", "asked"), [("soft", 3), ("hard", 1), (2, 2), (np.int64(3), 3), ("stacking", 3)])
def test_poolings_that_are_taken(pooling, asked: int) -> None:
    check_pooling(pooling, 3)
    assert experts_asked(pooling, 3) == asked


def test_a_stack_between_the_experts_average_and_the_gates_choice() -> None:
    np.testing.assert_allclose(pooled_gate(LOG_GATE_NE, Stack(1.0, np.zeros(3))), np.exp(LOG_GATE_NE))
    np.testing.assert_allclose(pooled_gate(LOG_GATE_NE, Stack(0.0, np.log([0.2, 0.3, 0.5]))), [[0.2, 0.3, 0.5]] * 3)
    np.testing.assert_allclose(
        pooled_gate(LOG_GATE_NE, Stack(500.0, np.zeros(3))), pooled_gate(LOG_GATE_NE, "hard"), atol=1e-12
    )
    impossible_NE = np.array([[0.0, -np.inf]])
    np.testing.assert_allclose(pooled_gate(impossible_NE, Stack(0.0, np.zeros(2))), [[0.5, 0.5]])


def stacking_case() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    log_gate_NE = np.log(random.dirichlet(np.ones(3), size=60))
    return log_gate_NE, random.normal(size=(60, 3)) + np.array([1.0, 0.0, -1.0]), random.integers(0, 3, size=60) / 1.0


def test_the_best_stack_is_that_of_a_search_without_gradients() -> None:
    log_gate_NE, log_density_NE, weight_N = stacking_case()

    def loss(theta: np.ndarray) -> float:
        weights_NE = softmax(theta[0] * log_gate_NE + theta[1:], axis=1)
        score = weight_N @ np.log((weights_NE * np.exp(log_density_NE)).sum(axis=1))
        return 0.5 * ((theta[0] - 1) ** 2 + (theta[1:] ** 2).sum()) - score

    searched = minimize(
        loss, [1.0, 0, 0, 0], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12, "maxiter": 4000}
    )
    found = best_stack(log_gate_NE, log_density_NE, weight_N)
    np.testing.assert_allclose(np.append(found.power, found.shift_E), searched.x, atol=1e-3)
    assert loss(np.append(found.power, found.shift_E)) <= searched.fun + 1e-6


def test_weights_of_a_stack_are_repetitions() -> None:
    log_gate_NE, log_density_NE, weight_N = stacking_case()
    weighted = best_stack(log_gate_NE, log_density_NE, weight_N)
    repeated = np.repeat(np.arange(60), weight_N.astype(int))
    again = best_stack(log_gate_NE[repeated], log_density_NE[repeated], np.ones(len(repeated)))
    np.testing.assert_allclose(
        np.append(weighted.power, weighted.shift_E), np.append(again.power, again.shift_E), atol=1e-4
    )


def test_stacking_mends_a_gate_that_is_too_sure(model: MoERegressor, table: Table) -> None:
    log_gate_NE = np.log(np.full((300, 2), [0.999, 0.001]))
    log_density_NE = np.where(np.arange(300)[:, None] % 2 == [0, 1], 0.0, -8.0)
    stack = best_stack(log_gate_NE, log_density_NE, np.ones(300))
    np.testing.assert_allclose(pooled_gate(log_gate_NE[:1], stack), [[0.5, 0.5]], atol=0.05)


def test_fit_stack_reads_held_out_rows_only(model: MoERegressor, table: Table) -> None:
    responsibility_NE = model.responsibilities(table.X, table.y)
    splits = list(KFold(4, shuffle=True, random_state=0).split(table.X))
    stack = fit_stack(model.mixture_, table, responsibility_NE, splits)
    gates, densities = np.empty((200, 3)), np.empty((200, 3))
    for fitted, held_out in splits:
        part = model.mixture_.updated(table.rows(fitted), responsibility_NE[fitted])
        gates[held_out] = part.gate.log_scores(table.X[held_out])
        densities[held_out] = part.experts.log_density(table.X[held_out], table.y[held_out])
    expected = best_stack(gates, densities, table.weight_N)
    np.testing.assert_allclose(
        np.append(stack.power, stack.shift_E), np.append(expected.power, expected.shift_E), atol=1e-3
    )
    pooled_score = logsumexp(np.log(pooled_gate(gates, stack)) + densities, axis=1).sum()
    assert pooled_score >= logsumexp(gates + densities, axis=1).sum() - 1e-9


def test_stacking_through_the_estimator(table: Table) -> None:
    model = MoERegressor(n_experts=3, max_iter=20, pooling="stacking").fit(table.X, table.y[:, 0])
    assert isinstance(model.stack_, Stack)
    np.testing.assert_allclose(model.predict(table.X), model.predict_dist(table.X).mean())
    assert model.score(table.X, table.y[:, 0]) > 0.9


@pytest.mark.parametrize("estimator", [MoERegressor, MoEClassifier])
def test_what_was_fitted_to_arrays_reads_sparse_rows(estimator) -> None:
    random = np.random.default_rng(0)
    X = random.uniform(1, 2, size=(80, 2))  # far from 0, where sparse columns are not centred
    dense, mixed = (estimator(n_experts=2, max_iter=10).fit(X, (X[:, 0] > 1.5).astype(int)) for _ in range(2))
    np.testing.assert_allclose(mixed.predict(sparse.csr_matrix(X)), dense.predict(X), rtol=1e-9)
    dense.partial_fit(X, (X[:, 1] > 1.5).astype(int))
    mixed.partial_fit(sparse.csr_matrix(X), (X[:, 1] > 1.5).astype(int))
    np.testing.assert_allclose(mixed.gate(X), dense.gate(X), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(mixed.experts_.output(X), dense.experts_.output(X), rtol=1e-6, atol=1e-9)


def test_the_density_asks_a_block_of_rows_at_a_time(table: Table, monkeypatch) -> None:
    process = GaussianProcessRegressor(alpha=0.1)
    model = MoERegressor(process, n_experts=2, max_iter=2).fit(table.X[:40], table.y[:40])
    expected = model.predict_dist(table.X)
    rows: list[int] = []
    inner = GaussianProcessRegressor.predict

    def counting(process, X, **arguments):
        rows.append(len(X))
        return inner(process, X, **arguments)

    monkeypatch.setattr(GaussianProcessRegressor, "predict", counting)
    monkeypatch.setattr("sparsemix.classic.numeric.blocks.ROWS", 7)
    found = model.predict_dist(table.X)
    assert max(rows) == 7
    np.testing.assert_allclose(found.mean_NEM, expected.mean_NEM, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.variance_NEM, expected.variance_NEM, rtol=1e-9)


def test_a_stack_is_that_of_parts_fitted_anew_until_they_rest(model: MoERegressor, table: Table) -> None:
    responsibility_NE = model.responsibilities(table.X, table.y)
    splits = list(KFold(4, shuffle=True, random_state=0).split(table.X))
    gates, densities = np.empty((200, 3)), np.empty((200, 3))
    for fitted, held_out in splits:
        known, share_NE = table.rows(fitted), responsibility_NE[fitted]
        gate = SoftmaxGate(steps=200).started(known, 3).updated(known, share_NE)
        experts = LinearExperts().started(known, 3).updated(known, share_NE)
        gates[held_out] = gate.log_scores(table.X[held_out])
        densities[held_out] = experts.log_density(table.X[held_out], table.y[held_out])
    anew = best_stack(gates, densities, table.weight_N)
    stack = fit_stack(model.mixture_, table, responsibility_NE, splits)
    seen = best_stack(model.gate_.log_scores(table.X), model.experts_.log_density(table.X, table.y), table.weight_N)

    assert abs(stack.power - anew.power) < 0.1
    assert abs(seen.power - anew.power) > 0.3
    np.testing.assert_allclose(pooled_gate(gates, stack), pooled_gate(gates, anew), atol=0.02)
