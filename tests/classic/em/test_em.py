"""EM: each step against a plain loop, an objective that never falls, gradients, and when it ends."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsemix.classic import GaussianGate, LinearExperts, LogisticExperts, SoftmaxGate
from sparsemix.classic.em.ascent import remaining_gain, wander
from sparsemix.classic.em.assign import Hard, Soft, Stochastic
from sparsemix.classic.em.criteria import aic, bic
from sparsemix.classic.em.loop import Mixture, Stopping, run_em
from sparsemix.classic.em.mixture import iteration
from sparsemix.classic.em.squarem import extrapolated
from sparsemix.classic.starts import cells, random
from tests.classic.problems import pieces, regression, two_laws


def started(table, n_experts):
    experts = LinearExperts() if table.num_classes is None else LogisticExperts()
    return Mixture(experts.started(table, n_experts), SoftmaxGate().started(table, n_experts))


@st.composite
def problems(draw):
    """A random table, a start and a variant of EM."""
    chance = np.random.RandomState(draw(st.integers(0, 2**32 - 1)))
    rows, features, experts = draw(st.integers(12, 60)), draw(st.integers(1, 4)), draw(st.integers(1, 4))
    X = chance.randn(rows, features) * chance.choice([1e-3, 1.0, 1e3])
    weight_N = draw(
        st.sampled_from([np.ones(rows), chance.randint(0, 3, size=rows) + 0.0, chance.exponential(size=rows)])
    )
    weight_N[:2] = 1.0
    y = chance.randn(rows, draw(st.integers(1, 2))) * chance.choice([1e-3, 1.0, 1e3])
    table = regression(X, y, weight_N)
    if draw(st.booleans()):
        code_N = np.append([0, 1], chance.randint(draw(st.integers(2, 3)), size=rows - 2))
        table = table._replace(y=code_N, num_classes=int(code_N.max()) + 1)
    start = draw(st.sampled_from([random, cells]))
    return table, start(table, experts, chance), draw(st.sampled_from([Soft(), Hard()]))


@settings(max_examples=40)
@given(problems())
def test_the_objective_never_falls(problem):
    check_never_falls(*problem)


@pytest.mark.slow
@settings(max_examples=200)
@given(problems())
def test_the_objective_never_falls_in_200_problems(problem):
    check_never_falls(*problem)


def check_never_falls(table, share_NE, assign):
    run = run_em(started(table, share_NE.shape[1]), table, share_NE, assign, Stopping(40, 1e-9))
    path = np.array(run.path)
    assert np.isfinite(path).all()
    assert (np.diff(path) >= -1e-9 * (1 + np.abs(path[1:]))).all()
    assert run.objective == path[-1]


def test_e_step_is_that_of_a_plain_loop():
    table = regression(*pieces(0, 3, rows=30))
    mixture = started(table, 3).updated(table, random(table, 3, np.random.RandomState(0)))
    log_joint_NE = mixture.log_joint(table.X, table.y)
    evidence_N, share_NE = Soft()(log_joint_NE)
    gate_NE = np.exp(mixture.gate.log_scores(table.X))
    for n in range(30):
        joint = [
            gate_NE[n, e]
            * np.exp(-0.5 * (table.y[n, 0] - mixture.experts.output(table.X)[n, e, 0]) ** 2 / variance)
            / np.sqrt(2 * np.pi * variance)
            for e, variance in enumerate(mixture.experts.variance(table.X)[0, :, 0])
        ]
        assert evidence_N[n] == pytest.approx(np.log(sum(joint)))
        assert share_NE[n] == pytest.approx(np.array(joint) / sum(joint))


@pytest.mark.parametrize("gate", [SoftmaxGate(), GaussianGate()])  # which models x, and counts p(e | x) alone
def test_the_density_of_a_row_and_its_criteria(gate):
    table = regression(*pieces(0, 3, rows=30), np.arange(30) % 3.0)
    mixture = Mixture(LinearExperts().started(table, 3), gate.started(table, 3))
    mixture = mixture.updated(table, random(table, 3, np.random.RandomState(0)))
    gate_NE = np.exp(mixture.gate.log_scores(table.X))
    normal_NE = np.exp(mixture.experts.log_density(table.X, table.y))
    plain_N = [
        np.log(sum(p * density for p, density in zip(p_E, density_E, strict=True)) / sum(p_E))
        for p_E, density_E in zip(gate_NE, normal_NE, strict=True)
    ]
    log_density_N = mixture.log_density(table.X, table.y)
    np.testing.assert_allclose(log_density_N, plain_N, rtol=1e-9)
    parameters = mixture.experts.n_parameters + mixture.gate.n_parameters
    assert mixture.n_parameters == parameters
    twice = 2 * sum(weight * log_density for weight, log_density in zip(table.weight_N, plain_N, strict=True))
    assert bic(parameters, log_density_N, table.weight_N) == pytest.approx(parameters * np.log(30) - twice)
    assert aic(parameters, log_density_N, table.weight_N) == pytest.approx(2 * parameters - twice)


def test_gradients_are_those_of_the_paper():
    """Jacobs et al. (1991): of E = -log sum_e p_e N(d; o_e, 1), dE/do_e = -h_e (d - o_e) and dE/ds_e = p_e - h_e."""
    table = regression(*pieces(1, 2, rows=20))
    mixture = started(table, 2).updated(table, cells(table, 2, np.random.RandomState(0)))
    mixture.experts.variance_EM_[:] = 1.0
    h_NE = Soft()(mixture.log_joint(table.X, table.y)).responsibility_NE
    p_NE = np.exp(mixture.gate.log_scores(table.X))
    miss_NE = table.y - mixture.experts.output(table.X)[:, :, 0]

    def loss(expert, output_step, score_step):
        moved = mixture.only(np.arange(2))
        moved.experts.level_EM_[expert, 0] += output_step
        moved.gate.logits_.intercept_K[expert] += score_step
        return -Soft()(moved.log_joint(table.X, table.y)).evidence_N

    step = 1e-5
    for expert in range(2):
        by_output_N = (loss(expert, step, 0) - loss(expert, -step, 0)) / (2 * step)
        by_score_N = (loss(expert, 0, step) - loss(expert, 0, -step)) / (2 * step)
        np.testing.assert_allclose(by_output_N, -(h_NE * miss_NE)[:, expert], atol=1e-7)
        np.testing.assert_allclose(by_score_N, (p_NE - h_NE)[:, expert], atol=1e-7)


def test_extrapolation_ends_at_the_limit_of_geometric_steps():
    """Of steps that shrink by a factor f, the squared step of length 1 / (1 - f) leads to the limit itself."""
    chance = np.random.RandomState(0)
    limit_NE, gap_NE = chance.randn(20, 3), chance.randn(20, 3)
    trio = [limit_NE + gap_NE * 0.875**k for k in range(3)]
    share_NE = Soft()(trio[2]).responsibility_NE
    leap_NE = extrapolated(trio, share_NE, longest=16.0)
    np.testing.assert_allclose(Soft()(leap_NE).responsibility_NE, Soft()(limit_NE).responsibility_NE, atol=1e-9)
    bounded_NE = limit_NE + gap_NE * (1 - 4.0 * 0.125) ** 2  # log_0 + 2 a r + a^2 v with a = 4, r = -gap / 8
    leap_NE = extrapolated(trio, share_NE, longest=4.0)
    np.testing.assert_allclose(Soft()(leap_NE).responsibility_NE, Soft()(bounded_NE).responsibility_NE, atol=1e-9)
    plain_NE = extrapolated(trio, share_NE, longest=1.0)
    np.testing.assert_allclose(Soft()(plain_NE).responsibility_NE, share_NE, atol=1e-9)


@pytest.mark.parametrize("rate", [0.95, 0.99])
def test_remaining_gain_is_exact_for_geometric_gains(rate):
    assert remaining_gain(-1.0, -rate, -(rate**2)) == pytest.approx(rate**2)
    assert remaining_gain(0.0, 1.0, 3.0) == np.inf
    assert remaining_gain(0.0, 1.0, 1.0) == 0.0
    assert remaining_gain(250.0, 250.0 + 3e-14, 250.0 + 1e-13) == 0.0


@pytest.mark.parametrize("seed", range(3))
def test_converged_is_near_the_limit(seed):
    """Overlapping laws, where EM is slow: what it calls converged is where thousands of iterations lead."""
    table = regression(*two_laws(seed, rows=300))
    table = table._replace(y=table.y + 0.5 * np.random.RandomState(seed).randn(*table.y.shape))
    share_NE = cells(table, 2, np.random.RandomState(seed))
    run = run_em(started(table, 2), table, share_NE, Soft(), Stopping(1000, 1e-6))
    views = run.mixture.views(table)
    state = iteration(run.mixture, views, run.responsibility_NE, Soft())
    for _ in range(2000):
        state = iteration(state.mixture, views, state.responsibility_NE, Soft())
    assert run.converged
    assert state.objective - run.objective < 10 * 1e-6 * 300


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 7])
def test_iterations_are_not_more_than_asked(limit):
    table = regression(*two_laws(0, rows=200))
    seen = []
    for assign in (Soft(), Hard(), Stochastic(np.random.RandomState(0))):
        share_NE = cells(table, 2, np.random.RandomState(0))
        run = run_em(started(table, 2), table, share_NE, assign, Stopping(limit, 0.0), lambda *at: seen.append(at))
        assert len(run.path) <= limit
        assert seen == [(number, objective) for number, objective in enumerate(run.path, start=1)]
        seen.clear()


def test_stochastic_em_ends_with_soft_iterations_from_its_best():
    table = regression(*pieces(2, 3))
    share_NE = random(table, 3, np.random.RandomState(0))
    run = run_em(started(table, 3), table, share_NE, Stochastic(np.random.RandomState(1)), Stopping(200, 1e-6))
    soft = run_em(run.mixture, table, run.responsibility_NE, Soft(), Stopping(200, 1e-6))
    assert run.converged
    assert run.objective == pytest.approx(max(run.path), rel=1e-12)
    assert soft.objective == pytest.approx(run.objective, abs=1e-6 * 400)


def test_hard_responsibilities_are_those_of_the_best_expert():
    log_joint_NE = np.log([[0.1, 0.2], [0.3, 0.05]])
    evidence_N, share_NE = Hard()(log_joint_NE)
    assert evidence_N == pytest.approx(np.log([0.2, 0.3]))
    assert share_NE.tolist() == [[0, 1], [1, 0]]


def test_drawn_responsibilities_follow_the_posterior():
    log_joint_NE = np.tile(np.log([0.1, 0.3]), (20_000, 1))
    evidence_N, share_NE = Stochastic(np.random.RandomState(0))(log_joint_NE)
    assert evidence_N == pytest.approx(np.log(0.4))
    assert share_NE.mean(axis=0) == pytest.approx([0.25, 0.75], abs=0.01)


class Inexact(LinearExperts):
    """Experts that say of themselves that an M step may lower the objective, and do: every other one is forgotten."""

    @property
    def exact(self):
        return False

    def updated(self, table, weight_NE):
        new = super().updated(table, weight_NE)
        new.turn = getattr(self, "turn", 0) + 1
        if new.turn % 2:
            new.level_EM_ = new.level_EM_ + 0.1 * new.turn
        return new


def test_of_inexact_steps_the_best_is_kept():
    table = regression(*pieces(3, 2))
    mixture = started(table, 2)._replace(experts=Inexact().started(table, 2))
    run = run_em(mixture, table, cells(table, 2, np.random.RandomState(0)), Soft(), Stopping(60, 1e-6))
    assert min(np.diff(run.path)) < 0
    assert run.objective == max(run.path)
    assert run.objective == pytest.approx(
        Soft()(run.mixture.log_joint(table.X, table.y)).evidence_N.sum() - run.mixture.penalty
    )


def test_patience_counts_iterations_without_gain():
    table = regression(*pieces(4, 2))
    mixture = started(table, 2)
    views = mixture.views(table)
    first = iteration(mixture, views, cells(table, 2, np.random.RandomState(0)), Soft())
    assert len(list(wander(first, views, Soft(), enough=np.inf, patience=3))) == 3
