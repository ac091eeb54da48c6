"""The number of experts that data has is the one that is found."""

from __future__ import annotations

import numpy as np
import pytest
from joblib import parallel_config
from sklearn.model_selection import KFold

from sparsemix.classic import LinearExperts, MoEClassifier, MoERegressor, SoftmaxGate
from sparsemix.classic.em.assign import Soft, Stochastic
from sparsemix.classic.em.loop import Stopping
from sparsemix.classic.fitting.mixtures import Plan, fit_mixture
from sparsemix.classic.fitting.selection import bic_of, by_bic, by_cross_validation, choose
from sparsemix.classic.starts import cells, splits
from tests.classic.problems import regression, two_blobs


def three_laws(seed: int, rows: int = 300) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    x_ND = random.uniform(-3, 3, size=(rows, 2))
    laws = [2 * x_ND[:, 1] + 1, -2 * x_ND[:, 1], 0.5 * x_ND[:, 0] + 3]
    return x_ND, np.choose(np.digitize(x_ND[:, 0], [-1, 1]), laws) + 0.2 * random.normal(size=rows)


def three_classifiers(seed: int, rows: int = 600) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    x_ND = random.uniform(-3, 3, size=(rows, 2))
    logit_N = np.choose(np.digitize(x_ND[:, 0], [-1, 1]), [x_ND[:, 1], -x_ND[:, 1], x_ND[:, 0] - 2]) * 6
    return x_ND, np.where(random.random(rows) < 1 / (1 + np.exp(-logit_N)), "yes", "no")


def plan(assign=None) -> Plan:
    return Plan(LinearExperts(), SoftmaxGate(), (splits, cells), assign or Soft(), Stopping(100, 1e-6))


@pytest.mark.parametrize("how", ["bic", "cv", "prune"])
@pytest.mark.parametrize("seed", range(3))
def test_three_laws_are_found(how, seed):
    most = 4 if how == "cv" else 8
    model = MoERegressor(n_experts=how, n_experts_range=(1, most), cv=3, random_state=0).fit(*three_laws(seed))
    assert model.n_experts_ == 3
    assert model.selection_["n_experts"].tolist() == list(range(1, most + 1))


@pytest.mark.parametrize("how", ["bic", "cv", "prune"])
@pytest.mark.parametrize("seed", range(3))
def test_one_law_in_two_blobs_is_one_expert(how, seed):
    x_ND, y_N = two_blobs(seed, rows=300)
    folds = KFold(3, shuffle=True, random_state=0)
    assert MoERegressor(n_experts=how, n_experts_range=(1, 4), cv=folds).fit(x_ND, y_N).n_experts_ == 1


@pytest.mark.parametrize("how", ["bic", "cv", "prune"])
def test_three_classifiers_are_found(how):
    model = MoEClassifier(n_experts=how, n_experts_range=(2, 4), cv=3, max_iter=60)
    assert model.fit(*three_classifiers(0)).n_experts_ == 3


def test_bic_is_that_of_the_estimator():
    x_ND, y_N = three_laws(0)
    weight_N = np.random.default_rng(1).integers(0, 3, size=len(y_N))
    model = MoERegressor(n_experts="bic", n_experts_range=(2, 4)).fit(x_ND, y_N, weight_N)
    least = model.selection_["bic"].min()
    assert model.bic(x_ND, y_N, weight_N) == pytest.approx(least, rel=1e-9)
    assert model.selection_["n_experts"][model.selection_["bic"].argmin()] == model.n_experts_


@pytest.mark.parametrize("how", ["bic", "prune"])
def test_a_weight_is_a_repetition(how):
    x_ND, y_N = three_laws(0)
    weight_N = np.random.default_rng(2).integers(0, 3, size=len(y_N))
    again = np.repeat(np.arange(len(y_N)), weight_N)
    weighted = MoERegressor(n_experts=how, n_experts_range=(1, 4)).fit(x_ND, y_N, weight_N)
    repeated = MoERegressor(n_experts=how, n_experts_range=(1, 4)).fit(x_ND[again], y_N[again])
    assert weighted.n_experts_ == repeated.n_experts_ == 3
    np.testing.assert_allclose(weighted.selection_["bic"][:3], repeated.selection_["bic"][:3], rtol=1e-6)


def test_held_out_density_is_that_of_fits_without_the_fold():
    table = regression(*three_laws(0), np.random.default_rng(3).integers(0, 3, size=300).astype(float))
    folds = list(KFold(3).split(table.X))
    alone = plan()._replace(starts=(splits,))
    found = by_cross_validation(alone, table, range(2, 4), folds, np.random.RandomState(0), None).criteria
    total = 0.0
    for known, held in folds:
        run = fit_mixture(alone, table.rows(known), 3, np.random.RandomState(0))
        held_table = table.rows(held)
        log_joint_NE = run.mixture.log_joint(held_table.X, held_table.y)
        total += float(held_table.weight_N @ np.log(np.exp(log_joint_NE).sum(axis=1)))
    assert found["mean_log_density"][1] == pytest.approx(total / table.weight_N.sum(), rel=1e-9)


def test_the_gap_of_the_best_is_nothing():
    table = regression(*three_laws(1))
    found = by_cross_validation(plan(), table, range(1, 5), 3, np.random.RandomState(0), None)
    best = found.criteria["mean_log_density"].argmax()
    assert found.criteria["gap"][best] == found.criteria["gap_error"][best] == 0
    chosen = found.run.responsibility_NE.shape[1] - 1
    assert found.criteria["gap"][chosen] <= found.criteria["gap_error"][chosen]
    assert (found.criteria["gap"][:chosen] > found.criteria["gap_error"][:chosen]).all()


def test_fits_side_by_side_are_those_one_after_the_other():
    table, stochastic = regression(*three_laws(0, 120)), plan(Stochastic(np.random.RandomState(0)))
    found = []
    for n_jobs in (1, 2):
        with parallel_config("threading"):  # what they share, they share
            found.append(choose("cv", stochastic, table, range(2, 4), 3, np.random.RandomState(5), n_jobs=n_jobs))
    assert found[0].run.objective == found[1].run.objective
    for name, column in found[0].criteria.items():
        np.testing.assert_array_equal(column, found[1].criteria[name])


def test_pruning_goes_down_the_numbers_and_bic_of_the_choice_is_lowest():
    table = regression(*three_laws(2))
    found = choose("prune", plan(), table, range(2, 7), 5, np.random.RandomState(0))
    assert found.criteria["bic"].shape == (5,)
    assert bic_of(found.run.mixture, table) == pytest.approx(found.criteria["bic"].min())
    full = by_bic(plan(), table, [6], np.random.RandomState(0), None)
    assert found.criteria["bic"][-1] == pytest.approx(full.criteria["bic"][0], rel=1e-3)


def test_folds_that_leave_too_few_rows():
    x_ND, y_N = three_laws(0, 8)
    with pytest.raises(ValueError, match="n_experts_range: must not exceed the 4 rows left by a fold, got 5"):
        MoERegressor(n_experts="cv", n_experts_range=(5, 6), cv=2).fit(x_ND, y_N)
