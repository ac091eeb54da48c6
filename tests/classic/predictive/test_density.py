"""Normal mixtures of rows, against scipy's normal and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import kstest, norm

from sparsemix.classic.predictive.density import NormalMixture, draw

N, E, M = 6, 3, 2


@pytest.fixture
def parts() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    weight_NE = random.dirichlet(np.ones(E), size=N)
    return weight_NE, 3 * random.normal(size=(N, E, M)), np.exp(random.normal(size=(1, E, M)))


def test_one_normal_is_scipys() -> None:
    mean_N, deviation_N = np.array([-2.0, 0.0, 1e6]), np.array([0.3, 1.0, 5.0])
    ours = NormalMixture(np.ones((3, 1)), mean_N[:, None], deviation_N[:, None] ** 2)
    scipys = norm(mean_N, deviation_N)
    y_N = mean_N + np.array([-3.0, 0.1, 2.0])
    for method in ("pdf", "logpdf", "cdf"):
        np.testing.assert_allclose(getattr(ours, method)(y_N), getattr(scipys, method)(y_N), rtol=1e-12)
    q = np.array([0, 1e-200, 1e-9, 0.2, 0.5, 1 - 1e-9, 1])
    np.testing.assert_allclose(ours.ppf(q), scipys.ppf(q[:, None]).T, rtol=1e-12)
    for method in ("mean", "var", "std", "median"):
        np.testing.assert_allclose(getattr(ours, method)(), getattr(scipys, method)(), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(ours.interval(0.9), scipys.interval(0.9), rtol=1e-12)


def test_moments_and_densities_by_plain_loops(parts) -> None:
    weight_NE, mean_NEM, variance_1EM = parts
    mixture = NormalMixture(*parts)
    y_NM = np.random.default_rng(1).normal(size=(N, M))
    for n in range(N):
        mean_M = sum(weight_NE[n, e] * mean_NEM[n, e] for e in range(E))
        second_M = sum(weight_NE[n, e] * (variance_1EM[0, e] + mean_NEM[n, e] ** 2) for e in range(E))
        normals = [norm(mean_NEM[n, e], np.sqrt(variance_1EM[0, e])) for e in range(E)]
        joint = sum(weight_NE[n, e] * normals[e].pdf(y_NM[n]).prod() for e in range(E))
        below_M = sum(weight_NE[n, e] * normals[e].cdf(y_NM[n]) for e in range(E))
        np.testing.assert_allclose(mixture.mean()[n], mean_M)
        np.testing.assert_allclose(mixture.var()[n], second_M - mean_M**2)
        np.testing.assert_allclose(mixture.std()[n], np.sqrt(second_M - mean_M**2))
        np.testing.assert_allclose(mixture.pdf(y_NM)[n], joint)
        np.testing.assert_allclose(mixture.cdf(y_NM)[n], below_M)


def test_density_is_the_slope_of_the_distribution(parts) -> None:
    weight_NE, mean_NEM, variance_1EM = parts
    row = NormalMixture(weight_NE, mean_NEM[:, :, 0], variance_1EM[:, :, 0])[2]
    area = quad(lambda y: row.pdf([y])[0], -1.0, 0.5, epsabs=1e-11)[0]
    np.testing.assert_allclose(area, (row.cdf([0.5]) - row.cdf([-1.0]))[0], rtol=1e-9)


@st.composite
def mixtures(draw_value) -> NormalMixture:
    random = np.random.default_rng(draw_value(st.integers(0, 2**32 - 1)))
    n_experts = draw_value(st.integers(1, 5))
    weight_NE = random.dirichlet(np.full(n_experts, draw_value(st.sampled_from([0.05, 1.0]))), size=4)
    weight_NE[:, 1:] *= random.uniform(size=(4, n_experts - 1)) > 0.3
    weight_NE = np.maximum(weight_NE, np.eye(n_experts)[0] * 1e-12)
    deviation = np.exp(draw_value(st.sampled_from([0.1, 2.0, 8.0])) * random.normal(size=(4, n_experts)))
    centre = draw_value(st.sampled_from([0.0, 1e5])) + 10 * random.normal(size=(4, n_experts))
    return NormalMixture(weight_NE / weight_NE.sum(axis=1, keepdims=True), centre, deviation**2)


@given(mixtures())
def test_quantiles_turn_the_distribution_round(mixture: NormalMixture) -> None:
    q_Q = np.array([1e-12, 1e-3, 0.05, 0.3, 0.5, 0.8, 0.999, 1 - 1e-9])
    y_NQ = mixture.ppf(q_Q)
    slack_N = 1e-8 * mixture.std() + 1e-10  # the spacing of numbers near 1e5
    for place, q in enumerate(q_Q):
        rounding = 1e-14
        assert (mixture.cdf(y_NQ[:, place] - slack_N) <= q + rounding).all()
        assert (mixture.cdf(y_NQ[:, place] + slack_N) >= q - rounding).all()
    assert (np.diff(y_NQ, axis=1) >= 0).all()


@given(st.lists(st.floats(0, 1), min_size=2, max_size=6))
def test_quantiles_rise_and_keep_the_order_they_were_asked_in(q_Q: list[float]) -> None:
    mixture = NormalMixture(np.array([[0.3, 0.7]]), np.array([[0.0, 5.0]]), np.array([[1e-12, 2.0]]))
    y_Q = mixture.ppf(q_Q)[0]
    order = np.argsort(q_Q, kind="stable")
    assert (np.diff(y_Q[order][np.isfinite(y_Q[order])]) >= 0).all()
    np.testing.assert_array_equal(y_Q, [mixture.ppf(q)[0] for q in q_Q])


def test_an_expert_without_weight_has_no_say() -> None:
    odd = NormalMixture(np.array([[0.0, 1.0]]), np.array([[1e100, 2.0]]), np.array([[1.0, 4.0]]))
    np.testing.assert_allclose(odd.ppf([0.1, 0.9])[0], norm(2, 2).ppf([0.1, 0.9]))
    np.testing.assert_allclose(odd.logpdf([1.0]), norm(2, 2).logpdf(1.0))


def test_both_tails_are_as_accurate(parts) -> None:
    weight_NE, mean_NEM, variance = parts
    left, right = NormalMixture(weight_NE, mean_NEM, variance), NormalMixture(weight_NE, -mean_NEM, variance)
    np.testing.assert_allclose(left.ppf(2.0**-40), -right.ppf(1 - 2.0**-40), rtol=1e-9)


def test_results_have_an_axis_for_outputs_only_if_there_is_one(parts) -> None:
    weight_NE, mean_NEM, variance = parts
    several, one = NormalMixture(*parts), NormalMixture(weight_NE, mean_NEM[:, :, 1], variance[:, :, 1])
    assert len(one) == N
    assert one.mean().shape == one.median().shape == one.rvs().shape == one.cdf(0.0).shape == (N,)
    assert one.ppf([0.1, 0.9]).shape == one.rvs(2).shape == (N, 2)
    assert several.mean().shape == several.ppf(0.5).shape == several.rvs().shape == (N, M)
    assert several.ppf([0.1]).shape == several.rvs(1).shape == (N, M, 1)
    assert several.logpdf(np.zeros((N, M))).shape == (N,)
    np.testing.assert_array_equal(one.ppf([0.1, 0.9]), several.ppf([0.1, 0.9])[:, 1])
    for low, high in (one.interval(0.5), several.interval(0.5)):
        assert (low < high).all()


def test_some_rows(parts) -> None:
    mixture = NormalMixture(*parts)
    np.testing.assert_array_equal(mixture[2].mean(), mixture.mean()[[2]])
    np.testing.assert_array_equal(mixture[1:3].ppf(0.2), mixture.ppf(0.2)[1:3])
    np.testing.assert_array_equal(mixture[np.arange(N) % 2 == 0].var(), mixture.var()[::2])
    assert mixture[0].pdf(np.zeros((7, M))).shape == (7,), "a grid for one row"


def test_quantiles_do_not_depend_on_blocks(parts, monkeypatch) -> None:
    whole = NormalMixture(*parts).ppf([0.1, 0.7])
    monkeypatch.setattr("sparsemix.classic.numeric.blocks.ROWS", 4)
    np.testing.assert_allclose(NormalMixture(*parts).ppf([0.1, 0.7]), whole, rtol=1e-10)


def test_draws_follow_the_distribution() -> None:
    mixture = NormalMixture(np.array([[0.2, 0.8]]), np.array([[-3.0, 1.0]]), np.array([[0.25, 1.0]]))
    y_S = mixture.rvs(4000, random_state=0)[0]
    assert kstest(y_S, lambda y: mixture.cdf(np.asarray(y)[:, None].ravel())).pvalue > 0.01
    np.testing.assert_array_equal(y_S, mixture.rvs(4000, random_state=0)[0])


def test_one_draw_is_of_one_expert() -> None:
    mixture = NormalMixture(np.full((1, 2), 0.5), np.array([[[0.0, 0.0], [9.0, 9.0]]]), np.full((1, 2, 2), 1e-4))
    first_S, second_S = mixture.rvs(50, random_state=0)[0]
    np.testing.assert_array_equal(first_S > 4, second_S > 4)
    assert 0 < (first_S > 4).sum() < 50


def test_classes_are_drawn_by_their_probabilities() -> None:
    probability_NK = np.array([[0.0, 1.0, 0.0], [0.25, 0.0, 0.75]])
    drawn_NS = draw(probability_NK, 4000, np.random.RandomState(0))
    assert (drawn_NS[0] == 1).all()
    np.testing.assert_allclose(np.bincount(drawn_NS[1], minlength=3) / 4000, probability_NK[1], atol=0.03)


@pytest.mark.parametrize("q", [-0.1, 1.1, [0.5, np.nan], [[0.5]]])
def test_quantiles_outside_the_unit_interval_are_refused(parts, q) -> None:
    with pytest.raises(ValueError, match=r"^q: must be in \[0, 1\], got"):
        NormalMixture(*parts).ppf(q)


def test_confidence_outside_the_unit_interval_is_refused(parts) -> None:
    with pytest.raises(ValueError, match="confidence: must be in"):
        NormalMixture(*parts).interval(1.5)
