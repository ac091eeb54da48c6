"""Soft-target multinomial regression: its derivatives, its optimum, and that a step never lowers it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, sparse
from sklearn.linear_model import LogisticRegression

from sparsemix.classic.numeric import multinomial
from sparsemix.classic.numeric.columns import as_they_are
from sparsemix.classic.numeric.curvature import applied, solved
from sparsemix.classic.numeric.multinomial import (
    Logits,
    climb,
    conjugate_step,
    derivatives,
    newton_step,
    normalised,
    online_step,
    uniform,
)


def problem(seed, rows=60, features=3, classes=3, sharp=1.0):
    """z, targets and weights, some of them 0."""
    random = np.random.default_rng(seed)
    z_ND = random.normal(size=(rows, features))
    scores = sharp * (z_ND @ random.normal(size=(features, classes)) + random.normal(size=(rows, classes)))
    return z_ND, np.exp(normalised(scores)), random.integers(0, 3, size=rows) * random.random(rows)


def somewhere(seed, features, classes, alpha):
    random = np.random.default_rng(seed)
    coef_KD, intercept_K = random.normal(size=(classes, features)), random.normal(size=classes)
    return Logits(coef_KD - coef_KD.mean(axis=0), intercept_K - intercept_K.mean(), alpha)


def plain_objective(flat, z_ND, target_NK, weight_N, alpha):
    coef_KD = flat.reshape(target_NK.shape[1], -1)
    total = -0.5 * alpha * (coef_KD[:, :-1] ** 2).sum()
    for z_D, target_K, weight in zip(z_ND, target_NK, weight_N, strict=True):
        score_K = coef_KD[:, :-1] @ z_D + coef_KD[:, -1]
        total += weight * (target_K @ score_K - np.log(np.exp(score_K).sum()))
    return total


def flat(logits):
    return np.column_stack([logits.coef_KD, logits.intercept_K]).ravel()


@pytest.mark.parametrize("classes", [2, 3, 6])  # one matrix for each pair of classes, and all pairs at once
def test_derivatives_are_finite_differences(classes):
    z_ND, target_NK, weight_N = problem(classes, rows=20, classes=classes)
    logits = somewhere(0, 3, classes, alpha=0.3)
    objective, gradient_KD, pair_KKDD = derivatives(logits, as_they_are(z_ND), target_NK, weight_N)
    args = (z_ND, target_NK, weight_N, 0.3)
    assert objective == pytest.approx(plain_objective(flat(logits), *args))
    assert objective == pytest.approx(logits.objective(as_they_are(z_ND), target_NK, weight_N))
    expected = optimize.approx_fprime(flat(logits), plain_objective, 1e-6, *args)
    np.testing.assert_allclose(gradient_KD.ravel(), expected, atol=1e-4)
    step_KD = np.random.default_rng(1).normal(size=gradient_KD.shape)

    def slope(size):
        return plain_objective(flat(logits) + size * step_KD.ravel(), *args)

    second = (slope(1e-3) - 2 * slope(0) + slope(-1e-3)) / 1e-6
    expected = -(step_KD * applied(pair_KKDD, step_KD)).sum() - 0.3 * (step_KD[:, :-1] ** 2).sum()
    assert second == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("classes", [2, 3, 6])
def test_the_step_solves_the_quadratic_model(classes):
    z_ND, target_NK, weight_N = problem(0, classes=classes)
    logits = somewhere(0, 3, classes, alpha=0.3)
    _, gradient_KD, pair_KKDD = derivatives(logits, as_they_are(z_ND), target_NK, weight_N)
    hessian = -pair_KKDD.transpose(0, 2, 1, 3).copy()
    for k in range(classes):
        hessian[k, :, k] = pair_KKDD[k].sum(axis=0) + np.diag(logits.ridge_D)
        for other in set(range(classes)) - {k}:
            hessian[k, :, other] = -pair_KKDD[k, other]
    expected = np.linalg.lstsq(hessian.reshape(classes * 4, -1), gradient_KD.ravel(), rcond=1e-10)[0]
    np.testing.assert_allclose(solved(pair_KKDD, logits.ridge_D, gradient_KD).ravel(), expected, atol=1e-8)


def test_a_matrix_that_rounding_made_indefinite_has_a_finite_step():
    z_D = np.array([1.0, 1.0, 1.0])
    pair_KKDD = np.multiply.outer([[0.0, 0.25], [0.25, 0.0]], np.outer(z_D, z_D) - 1e-13 * np.eye(3))
    step_KD = solved(pair_KKDD, np.zeros(3), np.outer([1.0, -1.0], z_D))
    assert np.isfinite(step_KD).all()
    np.testing.assert_allclose(applied(pair_KKDD, step_KD), np.outer([1.0, -1.0], z_D), rtol=1e-9)


@settings(max_examples=8)
@given(st.integers(0, 2**32 - 1), st.integers(2, 4), st.sampled_from([newton_step, conjugate_step]))
def test_the_optimum_is_scipys(seed, classes, newton):
    z_ND, target_NK, weight_N = problem(seed, rows=30, classes=classes)
    logits, z = uniform(classes, 3, 0.1), as_they_are(z_ND)
    for _ in range(30):
        logits = logits.moved(newton(logits, z, target_NK, weight_N).step_KD)
    best = optimize.minimize(
        lambda x: -plain_objective(x, z_ND, target_NK, weight_N, 0.1), np.zeros(classes * 4), tol=1e-12
    )
    assert logits.objective(z, target_NK, weight_N) >= -best.fun - 1e-8
    np.testing.assert_allclose(logits.coef_KD, best.x.reshape(classes, -1)[:, :-1], atol=1e-3)


def test_hard_targets_are_scikit_learns_logistic_regression():
    z_ND, target_NK, weight_N = problem(3)
    label_N = target_NK.argmax(axis=1)
    ours = climb(uniform(3, 3, 0.5), as_they_are(z_ND), np.eye(3)[label_N], weight_N, steps=50)[0]
    theirs = LogisticRegression(C=2.0, tol=1e-10, solver="newton-cholesky").fit(z_ND, label_N, weight_N)
    np.testing.assert_allclose(np.exp(ours.log_proba(as_they_are(z_ND))), theirs.predict_proba(z_ND), atol=1e-4)


@settings(max_examples=60)
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(0, 3), st.sampled_from([0.0, 1e-3, 1.0]),
    st.sampled_from([0.1, 30.0, 1e4]), st.booleans(),
)  # fmt: skip
def test_no_step_lowers_the_objective(seed, classes, features, alpha, sharp, large):
    z_ND, target_NK, weight_N = problem(seed, features=features, classes=classes, sharp=sharp)
    logits = somewhere(seed, features, classes, alpha)
    reached = logits.objective(as_they_are(z_ND), target_NK, weight_N)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multinomial, "LARGE", 0 if large else 500)
        for _ in range(4):
            logits = climb(logits, as_they_are(z_ND), target_NK, weight_N, steps=1)[0]
            objective = logits.objective(as_they_are(z_ND), target_NK, weight_N)
            assert objective >= reached
            reached = objective


@pytest.mark.parametrize("alpha", [0.0, 1e-3])
@pytest.mark.parametrize("case", ["separable", "twins", "constant", "huge", "missing class", "no weight", "one row"])
def test_hard_cases_stay_finite(case, alpha):
    z_ND, target_NK, weight_N = problem(0)
    match case:
        case "separable":
            target_NK = np.eye(3)[np.digitize(z_ND[:, 0], [-0.5, 0.5])]
        case "twins":
            z_ND = z_ND[:, [0, 0, 1]]
        case "constant":
            z_ND[:, 1] = 0
        case "huge":
            z_ND[:, 1] *= 1e8
        case "missing class":
            target_NK = target_NK * [1, 1, 0] / (target_NK * [1, 1, 0]).sum(axis=1, keepdims=True)
        case "no weight":
            weight_N = np.zeros(60)
        case "one row":
            weight_N = np.eye(60)[0]
    logits = climb(uniform(3, 3, alpha), as_they_are(z_ND), target_NK, weight_N, steps=30)[0]
    assert np.isfinite(logits.coef_KD).all()
    assert np.isfinite(logits.log_proba(as_they_are(z_ND))).all()


@pytest.mark.parametrize("newton", [newton_step, conjugate_step])
@pytest.mark.parametrize("kind", [np.float32, sparse.csr_matrix])
def test_float32_and_sparse_steps_are_those_of_the_array(kind, newton):
    z_ND, target_NK, weight_N = problem(0)
    z_ND = np.round(z_ND)
    columns = as_they_are(kind(z_ND))
    for actual, expected in zip(
        newton(somewhere(0, 3, 3, 0.1), columns, target_NK, weight_N)[:3],
        newton(somewhere(0, 3, 3, 0.1), as_they_are(z_ND), target_NK, weight_N)[:3],
        strict=True,
    ):
        np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12)


def test_blocks_do_not_matter():
    z_ND, target_NK, weight_N = problem(0, rows=3000, features=20, classes=6)
    logits = somewhere(0, 20, 6, 0.1)
    z_ND[1500:] = weight_N[1500:] = 0
    whole = derivatives(logits, as_they_are(z_ND), target_NK, weight_N)
    half = derivatives(logits, as_they_are(z_ND[:1500]), target_NK[:1500], weight_N[:1500])
    for actual, expected in zip(whole, half, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-9)


def test_only_some_classes_renormalise():
    z_ND = problem(0)[0]
    logits = somewhere(0, 3, 4, 0.1)
    kept = logits.only(np.array([2, 0]))
    np.testing.assert_allclose(
        kept.log_proba(as_they_are(z_ND)), normalised(logits.log_proba(as_they_are(z_ND))[:, [2, 0]])
    )
    np.testing.assert_allclose(kept.coef_KD.sum(axis=0), 0, atol=1e-12)


def test_normalised_rows_sum_to_one_however_small():
    log_NE = np.random.default_rng(0).normal(size=(5000, 3)) - 1e6
    np.testing.assert_allclose(np.exp(normalised(log_NE)).sum(axis=1), 1)


def test_online_steps_remember_rows_by_a_quadratic():
    z_ND, target_NK, weight_N = problem(0, rows=400)
    past_KKDD, logits = None, uniform(3, 3, 0.1)
    for rows in np.split(np.arange(400), 4):
        logits, past_KKDD = online_step(
            logits, past_KKDD, 1.0, as_they_are(z_ND[rows]), target_NK[rows], weight_N[rows]
        )
    whole = climb(uniform(3, 3, 0.1), as_they_are(z_ND), target_NK, weight_N, steps=20)[0]
    np.testing.assert_allclose(logits.coef_KD, whole.coef_KD, atol=0.1)


def test_the_first_online_step_is_the_fit():
    z_ND, target_NK, weight_N = problem(0)
    logits, _ = online_step(uniform(3, 3, 0.1), None, 1.0, as_they_are(z_ND), target_NK, weight_N)
    expected = climb(uniform(3, 3, 0.1), as_they_are(z_ND), target_NK, weight_N, steps=20)[0]
    np.testing.assert_allclose(logits.coef_KD, expected.coef_KD, atol=1e-3)
