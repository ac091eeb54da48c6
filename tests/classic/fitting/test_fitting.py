"""Fits: the best of several starts, warm starts, revival of experts that died, and weights as repetition."""

from __future__ import annotations

import numpy as np
import pytest

from sparsemix.classic import LinearExperts, LogisticExperts, MoERegressor, SoftmaxGate
from sparsemix.classic.em.assign import Hard, Soft
from sparsemix.classic.em.loop import Run, Stopping
from sparsemix.classic.fitting.mixtures import Plan, fit_mixture, resume, revived, started
from sparsemix.classic.starts import cells, splits
from tests.classic.problems import classes, pieces, regression


def plan_of(table, *starts, assign=None, max_iter=200):
    experts = LinearExperts() if table.num_classes is None else LogisticExperts()
    return Plan(experts, SoftmaxGate(), starts, assign or Soft(), Stopping(max_iter, 1e-6))


def with_dead(table, n_experts) -> tuple[Plan, Run]:
    """A fit in which all but the first expert are so far off that they have no rows."""
    plan = plan_of(table)
    mixture = started(plan, table, n_experts)
    mixture.experts.level_EM_[1:] += 1e6
    return plan, resume(plan, mixture, table)


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


def test_dead_experts_are_revived_where_that_raises_the_objective():
    table = regression(*pieces(1, 3))
    plan, run = with_dead(table, 3)
    assert (table.weight_N @ run.responsibility_NE).tolist() == [400, 0, 0]
    lively = revived(plan, table, run)
    whole = fit_mixture(plan_of(table, splits), table, 3, np.random.RandomState(0))
    assert lively.objective == pytest.approx(whole.objective, rel=1e-3)
    assert lively.revivals == (len(run.path),)
    assert lively.path[: len(run.path)] == run.path
    assert (np.diff(lively.path) >= -1e-9 * abs(lively.objective)).all()
    assert lively.objective == lively.path[lively.best]
    assert (table.weight_N @ lively.responsibility_NE > 10).all()


def test_a_revival_that_gains_nothing_is_dropped():
    """Of one law, where two experts gain less than the tolerance, a tenth of a nat a row."""
    random = np.random.RandomState(0)
    X = random.randn(400, 1)
    table = regression(X, X[:, 0] + random.randn(400))
    plan, run = with_dead(table, 2)
    plan = plan._replace(stopping=plan.stopping._replace(tol=0.1))
    assert revived(plan, table, run) is run


def test_rows_that_only_the_dead_had_are_given_to_the_living():
    table = regression(*pieces(1, 3))
    plan, run = with_dead(table, 3)
    share_NE = run.responsibility_NE.copy()
    share_NE[:2] = [0.0, 1.0, 0.0]
    assert np.isfinite(revived(plan, table, run._replace(responsibility_NE=share_NE)).path).all()


def test_revival_stays_within_the_iterations_asked():
    table = regression(*pieces(1, 3))
    plan, run = with_dead(table, 3)
    limit = len(run.path) + 4
    plan = plan._replace(stopping=plan.stopping._replace(max_iter=limit))
    seen = []
    lively = revived(plan._replace(observe=lambda *at: seen.append(at)), table, run)
    assert len(run.path) < len(lively.path) <= limit
    assert seen == [(number, objective) for number, objective in enumerate(lively.path, start=1)][len(run.path) :]


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


def test_rounding_at_the_maximum_does_not_choose_the_iteration():
    """Overlapping laws whose last gains are below rounding: which of those iterations is best would be chance."""
    chance = np.random.RandomState(1026)
    X, weight_N = chance.normal(size=(150, 3)), chance.randint(0, 4, size=150)
    y = np.where(chance.rand(150) < 0.5, X[:, 0], 0.5 - X[:, 0]) + chance.normal(size=150)
    again = chance.permutation(np.repeat(np.arange(150), weight_N))
    weighted, repeated = MoERegressor().fit(X, y, weight_N), MoERegressor().fit(X[again], y[again])
    np.testing.assert_allclose(weighted.predict(X), repeated.predict(X), rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(weighted.gate(X), repeated.gate(X), rtol=1e-9, atol=1e-11)
