"""Scikit-learn's estimators as experts."""

import pickle

import numpy as np
import pandas as pd
import polars as pl
import pytest
from joblib import parallel_config
from scipy import sparse
from scipy.stats import norm
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.ensemble import GradientBoostingRegressor, HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.exceptions import FitFailedWarning
from sklearn.linear_model import LogisticRegression, Ridge, SGDClassifier, SGDRegressor
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR, LinearSVC
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from sklearn.utils import get_tags

from sparsemix.classic.experts import EstimatorExperts
from sparsemix.classic.parts import Table


def numbers(rows=80, outputs=1, seed=0):
    random = np.random.default_rng(seed)
    X = random.normal(size=(rows, 3))
    y = np.abs(X[:, :1]) * np.arange(1, outputs + 1) + 0.1 * random.normal(size=(rows, outputs))
    right = (X[:, :1] > 0).astype(float)
    return Table(X, y, np.ones(rows)), np.hstack([right, 1 - right]) * 0.9 + 0.05


def classes(rows=120, seed=0):
    random = np.random.default_rng(seed)
    X = random.normal(size=(rows, 2))
    y = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0)
    return Table(X, y, np.ones(rows), 3), random.dirichlet(np.ones(2), size=rows)


def fitted(estimator, table, weight_NE, **parameters):
    experts = EstimatorExperts(estimator, random_state=0, **parameters)
    return experts.started(table, weight_NE.shape[1]).updated(table, weight_NE)


REGRESSORS = [
    Ridge(),
    SVR(),
    DecisionTreeRegressor(max_depth=3),
    GradientBoostingRegressor(n_estimators=5),
    HistGradientBoostingRegressor(max_iter=20, min_samples_leaf=5),
    MLPRegressor(hidden_layer_sizes=(5,), solver="lbfgs", max_iter=2000, tol=1e-2),
    make_pipeline(StandardScaler(), SVR()),
    KNeighborsRegressor(3),
    [Ridge(), DecisionTreeRegressor(max_depth=2)],
]


@pytest.mark.parametrize("estimator", REGRESSORS, ids=str)
@pytest.mark.parametrize("outputs", [1, 2])
def test_regressors_are_normal_densities_around_what_they_predict(estimator, outputs):
    table, weight_NE = numbers(outputs=outputs)
    experts = fitted(estimator, table, weight_NE)
    output_NEM, log_NE = experts.output(table.X), experts.log_density(table.X, table.y)

    assert output_NEM.shape == (80, 2, outputs)
    for expert in range(2):
        mean_NM = output_NEM[:, expert]
        noise_M = np.average((table.y - mean_NM) ** 2, axis=0, weights=weight_NE[:, expert])
        expected_N = norm(mean_NM, np.sqrt(noise_M)).logpdf(table.y).sum(axis=1)
        if not isinstance(estimator, KNeighborsRegressor):
            assert np.allclose(experts.variance(table.X)[:, expert], noise_M)
            assert np.allclose(log_NE[:, expert], expected_N)
        assert np.array_equal(experts.output_of(expert, table.X), mean_NM)
    right_N = table.X[:, 0] > 0.5
    assert log_NE[right_N, 0].mean() > log_NE[right_N, 1].mean()


@pytest.mark.parametrize("estimator", [LogisticRegression(), DecisionTreeClassifier(), KNeighborsClassifier()], ids=str)
def test_classifiers_say_probabilities_of_all_classes(estimator):
    table, weight_NE = classes()
    weight_NE[table.y == 2, 0] = 0
    experts = fitted(estimator, table, weight_NE)
    output_NEK = experts.output(table.X)

    assert output_NEK.shape == (120, 2, 3)
    assert np.allclose(output_NEK.sum(axis=2), 1)
    assert np.allclose(output_NEK[:, 0, 2], 1e-6)
    assert np.allclose(experts.log_density(table.X, table.y), np.log(output_NEK[np.arange(120), :, table.y]))


def test_an_expert_of_one_class_says_that_class():
    table, weight_NE = classes()
    weight_NE[:, 0] = (table.y == 1) * 1.0
    experts = fitted(LogisticRegression(), table, weight_NE)

    assert np.allclose(experts.output(table.X)[:, 0], [1e-6, 1 - 2e-6, 1e-6])
    assert experts.experts_E_[0].n_parameters == 1


def test_rows_of_small_share_do_not_reach_the_estimator():
    table, weight_NE = numbers()
    weight_NE[:40, 0] = 9e-4
    few = table.rows(np.arange(40, 80))
    some, only = fitted(Ridge(), table, weight_NE), fitted(Ridge(), few, weight_NE[40:])

    assert np.allclose(some.output(table.X)[:, 0], only.output(table.X)[:, 0])
    assert np.allclose(some.variance(table.X)[:, 0], only.variance(table.X)[:, 0])


def test_held_out_rows_tell_trees_their_noise():
    random = np.random.default_rng(0)
    X = random.normal(size=(600, 1))
    table = Table(X, np.sign(X) + 0.5 * random.normal(size=(600, 1)), np.ones(600))
    weight_NE = np.ones((600, 1))
    sure = fitted(DecisionTreeRegressor(), table, weight_NE)
    honest = fitted(DecisionTreeRegressor(), table, weight_NE, cross_fit=5)

    assert np.isclose(sure.variance(X).item(), 1e-6 * table.y.var())
    assert 0.35 < honest.variance(X).item() < 0.7  # the noise of the row and of the one in its leaf, 0.5 together
    held_out_N = honest.training_log_density(table)[:, 0]
    assert np.allclose(honest.output(X)[:, 0], table.y)
    assert np.isclose(((held_out_N - held_out_N.max()) * -2 * honest.variance(X).item()).mean(), 0.5, atol=0.2)
    assert np.array_equal(sure.training_log_density(table), sure.log_density(X, table.y))


def test_held_out_densities_are_of_fits_without_the_row():
    table, weight_NE = numbers(rows=12)
    weight_NE[:4, 1] = 0
    experts = fitted(Ridge(), table, weight_NE, cross_fit=12)  # each row is held out alone
    rows_N, noise = np.arange(4, 12), experts.variance(table.X)[0, 1, 0]
    mean_N = Ridge().fit(table.X[4:], table.y[4:, 0], weight_NE[4:, 1]).predict(table.X)
    for row in rows_N:
        others = rows_N[rows_N != row]
        mean_N[row] = Ridge().fit(table.X[others], table.y[others, 0], weight_NE[others, 1]).predict(table.X)[row]

    assert np.isclose(noise, np.average((table.y[4:, 0] - mean_N[4:]) ** 2, weights=weight_NE[4:, 1]))
    expected_N = norm(mean_N, np.sqrt(noise)).logpdf(table.y[:, 0])
    assert np.allclose(experts.training_log_density(table)[:, 1], expected_N)


def test_held_out_probabilities():
    table = classes()[0]
    table.y[:10] = 0
    experts = fitted(DecisionTreeClassifier(), table, np.ones((120, 1)), cross_fit=4)

    assert experts.log_density(table.X, table.y).min() > -1e-4
    assert experts.training_log_density(table).min() < -10
    assert experts.training_log_density(table).shape == (120, 1)


def test_what_was_held_out_is_no_part_of_copies():
    table, weight_NE = numbers()
    experts = fitted(Ridge(), table, weight_NE, cross_fit=3)

    assert experts.held_out_.log_NE.shape == (80, 2)
    assert experts.only(np.array([0])).held_out_ is None
    assert pickle.loads(pickle.dumps(experts)).held_out_ is None
    assert np.array_equal(pickle.loads(pickle.dumps(experts)).output(table.X), experts.output(table.X))


def test_what_was_held_out_is_of_one_table_only():
    table, weight_NE = numbers()
    experts = fitted(Ridge(), table, weight_NE, cross_fit=3)
    other = table.rows(np.arange(80))

    assert np.array_equal(experts.training_log_density(other), experts.log_density(table.X, table.y))
    assert not np.array_equal(experts.training_log_density(table), experts.log_density(table.X, table.y))


def test_an_expert_whose_rows_are_of_one_fold_stays_as_it_was():
    table, weight_NE = numbers()
    started = EstimatorExperts(Ridge(), cross_fit=2, random_state=0).started(table, 2)
    weight_NE[:, 1] = np.arange(80) == 3
    with pytest.warns(FitFailedWarning, match="expert 1 stays as it was: .* cross_fit: needs rows of two folds"):
        experts = started.updated(table, weight_NE)

    assert experts.experts_E_[1] is started.experts_E_[1]


def test_experts_fitted_at_once_are_those_fitted_in_turn():
    table, weight_NE = numbers()
    forest = GradientBoostingRegressor(n_estimators=5, subsample=0.5)
    in_turn = fitted(forest, table, weight_NE)
    with parallel_config("threading"):
        at_once = fitted(forest, table, weight_NE, n_jobs=2)

    assert np.array_equal(in_turn.output(table.X), at_once.output(table.X))
    assert np.array_equal(in_turn.output(table.X), fitted(forest, table, weight_NE).output(table.X))


def test_experts_have_seeds_of_their_own_that_stay():
    table, _ = numbers()
    weight_NE = np.ones((80, 2))
    experts = fitted(DecisionTreeRegressor(max_features=1), table, weight_NE)
    again = experts.updated(table, weight_NE)

    assert experts.experts_E_[0].template.random_state != experts.experts_E_[1].template.random_state
    assert np.array_equal(experts.output(table.X), again.output(table.X))


def test_frames_with_gaps_and_categories_reach_the_estimator():
    table, weight_NE = numbers()
    frame = pd.DataFrame(table.X, columns=["a", "b", "c"])
    frame.loc[::7, "b"] = np.nan
    frame["side"] = pd.Categorical(np.where(table.X[:, 0] > 0, "right", "left"))
    experts = fitted(HistGradientBoostingRegressor(max_iter=3), table._replace(X=frame), weight_NE, cross_fit=2)
    codes = table._replace(X=pl.from_pandas(frame))
    polars = fitted(HistGradientBoostingRegressor(max_iter=3), codes, weight_NE, cross_fit=2)

    assert list(experts.experts_E_[0].functions[0].fitted.feature_names_in_) == ["a", "b", "c", "side"]
    assert np.allclose(experts.output(frame), polars.output(codes.X))
    assert experts.takes_frames


def test_sparse_rows_reach_the_estimator():
    table, weight_NE = numbers()
    rows = table._replace(X=sparse.csr_array(table.X))

    assert np.allclose(
        fitted(Ridge(), rows, weight_NE).output(rows.X), fitted(Ridge(), table, weight_NE).output(table.X)
    )


def test_experts_take_what_all_estimators_take():
    def inputs(*estimators):
        return get_tags(EstimatorExperts(list(estimators))).input_tags

    assert inputs(Ridge(), SVR()).sparse
    assert not inputs(Ridge(), HistGradientBoostingRegressor()).sparse
    assert inputs(HistGradientBoostingRegressor()).allow_nan
    assert not inputs(Ridge(), HistGradientBoostingRegressor()).allow_nan


def test_an_estimator_that_refuses_its_rows_leaves_the_expert_as_it_was_and_says_so():
    table, weight_NE = numbers()
    started = EstimatorExperts(KNeighborsRegressor(5), random_state=0).started(table, 2)
    weight_NE[:, 1] = np.arange(80) < 3
    with pytest.warns(FitFailedWarning, match="expert 1 stays as it was: KNeighborsRegressor refused the rows"):
        experts = started.updated(table, weight_NE)

    assert experts.experts_E_[1] is started.experts_E_[1]
    assert experts.experts_E_[0] is not started.experts_E_[0]


def test_an_expert_without_rows_stays_as_it_was():
    table, weight_NE = numbers()
    started = EstimatorExperts(Ridge(), cross_fit=2).started(table, 2)
    experts = started.updated(table, weight_NE * [1, 0])

    assert experts.experts_E_[1] is started.experts_E_[1]
    assert np.allclose(experts.training_log_density(table)[:, 1], experts.log_density(table.X, table.y)[:, 1])


class Broken(RegressorMixin, BaseEstimator):
    def fit(self, X, y):
        raise ValueError("no such thing")


def test_what_fails_at_the_first_fit_is_raised():
    table, _ = numbers()
    with pytest.raises(ValueError, match="no such thing"):
        EstimatorExperts(Broken()).started(table, 2)


@pytest.mark.parametrize(
    ("experts", "num_classes", "message"),
    [
        (EstimatorExperts(LinearSVC()), 3, r"must have predict_proba, got LinearSVC; wrap it: CalibratedClassifierCV"),
        (EstimatorExperts(Ridge()), 3, "expert: must be a classifier, got Ridge"),
        (EstimatorExperts(LogisticRegression()), None, "expert: must be a regressor, got LogisticRegression"),
        (EstimatorExperts([Ridge()]), None, "expert: a list must have n_experts=2 entries, got 1"),
        (EstimatorExperts(Ridge(), cross_fit=1), None, "cross_fit: must be None or at least 2, got 1"),
        (EstimatorExperts(Ridge(), variance_floor=0), None, "variance_floor: must be positive, got 0"),
    ],
)
def test_what_cannot_work_is_refused_at_once(experts, num_classes, message):
    table = numbers()[0] if num_classes is None else classes()[0]
    with pytest.raises(ValueError, match=message):
        experts.started(table, 2)


@pytest.mark.parametrize(
    "estimator", [SGDRegressor(), MLPRegressor(hidden_layer_sizes=(8,), learning_rate_init=0.05, tol=0.1)], ids=str
)
def test_regressors_learn_row_by_row(estimator):
    table, _ = numbers(rows=400)
    linear = table._replace(y=table.X[:, :1] * 2)
    experts = EstimatorExperts(estimator, random_state=0).started(linear.rows(np.arange(20)), 1)
    before = experts.log_density(linear.X, linear.y).mean()
    assert experts.online
    for _ in range(30):
        experts = experts.partially_updated(linear, np.ones((400, 1)), keep=0.5)

    assert experts.log_density(linear.X, linear.y).mean() > before + 0.1
    assert ((experts.output(linear.X)[:, 0] - linear.y) ** 2).mean() < 0.2
    assert not EstimatorExperts(Ridge()).online


@pytest.mark.parametrize("estimator", [SGDClassifier(loss="log_loss"), GaussianNB()], ids=str)
def test_classifiers_learn_row_by_row_and_new_classes(estimator):
    table, _ = classes()
    first = table.rows(table.y < 2)
    experts = EstimatorExperts(estimator, random_state=0).started(first, 2)
    for _ in range(5):
        experts = experts.partially_updated(table, np.repeat([[1.0, 0.0]], 120, axis=0), keep=1.0)

    assert (experts.output(table.X)[:, 0].argmax(axis=1) == table.y).mean() > 0.7
    assert np.allclose(experts.output(table.X)[:, 1, 2], 1e-6)


def test_they_are_clonable_parameters():
    experts = EstimatorExperts([Ridge(), SVR()], cross_fit=5)
    assert clone(experts).get_params()["cross_fit"] == 5
    assert clone(EstimatorExperts(Ridge(alpha=3))).estimator.alpha == 3


def test_gaps_reach_classifiers():
    table, weight_NE = classes()
    table.X[::5, 1] = np.nan
    experts = fitted(HistGradientBoostingClassifier(max_iter=3), table, weight_NE)
    assert np.isfinite(experts.log_density(table.X, table.y)).all()
