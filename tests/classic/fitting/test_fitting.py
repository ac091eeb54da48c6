"""Fits: the best of several starts, warm starts, revival of experts that died, and weights as repetition."""

from __future__ import annotations

import numpy as np
import pytest

from sparsemix.classic import LinearExperts, LogisticExperts, SoftmaxGate
from sparsemix.classic.em.assign import Hard, Soft
from sparsemix.classic.em.loop import Stopping
from sparsemix.classic.fitting.mixtures import Plan, fit_mixture, resume, revived
from sparsemix.classic.parts import Array
from sparsemix.classic.starts import cells, reseeded, splits
from tests.classic.problems import classes, pieces, regression


def plan_of(table, *starts, assign=None, max_iter=200):
    experts = LinearExperts() if table.num_classes is None else LogisticExperts()
    return Plan(experts, SoftmaxGate(), starts, assign or Soft(), Stopping(max_iter, 1e-6))


def one_dies(table, n_experts, random) -> Array:
    """All rows to the first expert but a hundredth, evenly, to the rest of them; the last has none."""
    share_NE = np.full((len(table.weight_N), n_experts), 0.01 / n_experts)
    share_NE[:, -1] = 0.0
    share_NE[:, 0] += 1 - share_NE.sum(axis=1)
    return share_NE


def test_the_best_of_several_starts_is_kept():
    table = regression(*pieces(1, 4))
    single = [fit_mixture(plan_of(table, cells), table, 4, np.random.RandomState(seed)).objective for seed in (0, 1)]
    plan = plan_of(table, splits, cells, cells)
    several = fit_mixture(plan, table, 4, np.random.RandomState(0))
    assert several.objective >= fit_mixture(plan_of(table, splits), table, 4, np.random.RandomState(0)).objective
    assert several.objective >= single[0]


def test_a_warm_start_goes_on_from_where_the_fit_was():
    table = regression(*pieces(2, 3))
    short = fit_mixture(plan_of(table, splits, max_iter=3), table, 3, np.random.RandomState(0))
    whole = fit_mixture(plan_of(table, splits), table, 3, np.random.RandomState(0))
    further = resume(plan_of(table), short.mixture, table)
    assert further.path[0] > short.objective
    assert further.objective == pytest.approx(whole.objective, abs=1e-5 * 400)


def test_a_dead_expert_is_revived_where_that_raises_the_objective():
    table = regression(*pieces(1, 2))
    plan = plan_of(table, one_dies, assign=Hard())  # soft EM comes out of it by itself
    run = fit_mixture(plan, table, 2, np.random.RandomState(0))
    whole = fit_mixture(plan_of(table, splits, assign=Hard()), table, 2, np.random.RandomState(0))
    assert len(run.revivals) == 1
    assert run.objective == pytest.approx(whole.objective, abs=1e-3 * abs(whole.objective))
    assert (np.diff(run.path) >= -1e-9).all()
    assert run.objective == run.path[run.best]
    assert (table.weight_N @ run.responsibility_NE > 10).all()


def test_of_one_law_nobody_is_revived():
    random = np.random.RandomState(0)
    X = random.randn(200, 2)
    table = regression(X, X[:, 0] + random.randn(200))
    plan = plan_of(table, one_dies, assign=Hard())
    run = fit_mixture(plan, table, 2, random)
    assert revived(plan, table, run) == run


def test_revival_stays_within_the_iterations_asked():
    table = regression(*pieces(1, 2))
    seen = []
    plan = plan_of(table, one_dies, max_iter=9)._replace(observe=lambda *at: seen.append(at))
    run = fit_mixture(plan, table, 2, np.random.RandomState(0))
    assert len(run.path) <= 9
    assert seen == [(number, objective) for number, objective in enumerate(run.path, start=1)]


def test_the_dead_take_sides_of_the_living():
    table = regression(*pieces(3, 3))
    share_NE = np.column_stack([np.full(400, 0.999), np.full(400, 0.001), np.zeros(400)])
    new_NE = reseeded(table, share_NE, np.array([False, True, True]))
    assert new_NE.sum(axis=1) == pytest.approx(1)
    assert (new_NE.sum(axis=0) > 20).all()


@pytest.mark.parametrize("assign", [Soft(), Hard()])
def test_rows_of_dead_experts_alone_go_to_the_living(assign):
    X, y = pieces(1, 2)
    y[:2] += 80 * (1 + np.arange(2))
    table = regression(X, y)
    share_NE = np.eye(3)[np.where(np.arange(400) < 2, 2, np.arange(400) % 2)]
    np.testing.assert_allclose(reseeded(table, share_NE, np.array([False, False, True])).sum(axis=1), 1)
    run = fit_mixture(plan_of(table, splits, assign=assign), table, 4, np.random.RandomState(0))
    assert (np.diff(run.path) >= -1e-9 * abs(run.objective)).all()


@pytest.mark.parametrize("assign", [Soft(), Hard()])
@pytest.mark.parametrize("make", [lambda: regression(*pieces(4, 3)), lambda: classes(2, 300)])
def test_a_weight_is_a_repetition_and_order_is_nothing(make, assign):
    table = make()
    random = np.random.RandomState(0)
    count_N = random.randint(0, 3, size=len(table.weight_N))
    order_N = random.permutation(np.repeat(np.arange(len(count_N)), count_N))
    weighted = table._replace(weight_N=count_N.astype(float))
    plan = plan_of(table, splits, assign=assign)
    one = fit_mixture(plan, weighted, 3, random)
    two = fit_mixture(plan, table.rows(order_N), 3, random)
    assert two.objective == pytest.approx(one.objective, abs=1e-6)
    np.testing.assert_allclose(two.mixture.experts.output(table.X), one.mixture.experts.output(table.X), atol=1e-5)
    np.testing.assert_allclose(two.mixture.gate.log_scores(table.X), one.mixture.gate.log_scores(table.X), atol=1e-4)
