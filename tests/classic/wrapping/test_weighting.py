"""Weights reach estimators of all sorts."""

import numpy as np
import pytest
from sklearn import config_context
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import BaggingRegressor, RandomForestRegressor, StackingRegressor, VotingRegressor
from sklearn.exceptions import UnsetMetadataPassedError
from sklearn.linear_model import LinearRegression, Ridge, SGDRegressor
from sklearn.model_selection import GridSearchCV
from sklearn.multioutput import MultiOutputRegressor
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from sparsemix.classic.wrapping.seeding import seeded
from sparsemix.classic.wrapping.weighting import fit_weighted, systematic, weight_argument

SCALED = make_pipeline(StandardScaler(), Ridge())
KNN = KNeighborsRegressor()


def asking(model):
    return model.set_fit_request(sample_weight=True)


def refusing(model):
    return model.set_fit_request(sample_weight=False)


@pytest.mark.parametrize(
    ("estimator", "argument"),
    [
        (Ridge(), "sample_weight"),
        (KNeighborsRegressor(), None),
        (make_pipeline(StandardScaler(), Ridge()), "ridge__sample_weight"),
        (make_pipeline(StandardScaler(), make_pipeline(Ridge())), "pipeline__ridge__sample_weight"),
        (make_pipeline(StandardScaler(), KNeighborsRegressor()), None),
        (GridSearchCV(Ridge(), {"alpha": [1, 2]}), "sample_weight"),
        (GridSearchCV(make_pipeline(Ridge()), {}), "ridge__sample_weight"),
        (TransformedTargetRegressor(Ridge()), "sample_weight"),
        (MultiOutputRegressor(Ridge()), "sample_weight"),
        (MultiOutputRegressor(KNeighborsRegressor()), None),
        (CalibratedClassifierCV(KNeighborsClassifier()), None),
        (TransformedTargetRegressor(), "sample_weight"),
        (TransformedTargetRegressor(SCALED), "ridge__sample_weight"),
        (BaggingRegressor(), "sample_weight"),
        (BaggingRegressor(SCALED), None),  # which would hand it `sample_weight`, and a pipeline refuses that
        (VotingRegressor([("a", Ridge()), ("b", LinearRegression())]), "sample_weight"),
        (VotingRegressor([("a", Ridge()), ("b", "drop")]), "sample_weight"),
        (VotingRegressor([("a", Ridge()), ("b", KNN)]), None),
        (VotingRegressor([("a", SCALED)]), None),
        (StackingRegressor([("a", Ridge())]), "sample_weight"),
        (StackingRegressor([("a", Ridge())], KNN), None),
    ],
)
def test_the_argument_that_takes_weights(estimator, argument):
    assert weight_argument(estimator, "fit") == argument


@pytest.mark.parametrize(
    ("estimator", "argument"),
    [
        (lambda: Ridge(), "sample_weight"),
        (lambda: refusing(Ridge()), "sample_weight"),  # what it was told is for estimators that hold it
        (lambda: KNN, None),
        (lambda: SCALED, "sample_weight"),
        (lambda: make_pipeline(StandardScaler(), refusing(Ridge())), None),
        (lambda: make_pipeline(asking(StandardScaler()), KNN), None),
        (lambda: make_pipeline(BaggingRegressor()), "sample_weight"),
        (lambda: GridSearchCV(make_pipeline(asking(Ridge())), {}), "sample_weight"),
        (lambda: MultiOutputRegressor(KNN), None),
        (lambda: VotingRegressor([("a", asking(Ridge())), ("b", KNN)]), None),
    ],
)
def test_the_argument_under_metadata_routing(estimator, argument):
    with config_context(enable_metadata_routing=True):
        assert weight_argument(estimator(), "fit") == argument


def test_the_argument_of_partial_fit():
    assert weight_argument(SGDRegressor(), "partial_fit") == "sample_weight"
    assert weight_argument(MultiOutputRegressor(SGDRegressor()), "partial_fit") == "sample_weight"


def random_rows():
    random = np.random.default_rng(0)
    return random.normal(size=(30, 2)), random.normal(size=30), random.integers(1, 4, 30)


FITTED = [
    Ridge(),
    make_pipeline(MinMaxScaler(), Ridge()),
    GridSearchCV(Ridge(), {"alpha": [1.0]}, cv=2),
    GridSearchCV(make_pipeline(Ridge()), {}, cv=2),
    TransformedTargetRegressor(make_pipeline(MinMaxScaler(), Ridge())),
    VotingRegressor([("a", Ridge()), ("b", LinearRegression())]),
    MultiOutputRegressor(Ridge()),
    KNeighborsRegressor(3),
    make_pipeline(MinMaxScaler(), KNeighborsRegressor(3)),
    BaggingRegressor(make_pipeline(MinMaxScaler(), Ridge()), n_estimators=3, random_state=0),
]


@pytest.mark.parametrize("estimator", FITTED, ids=str)
def test_a_weight_is_a_row_repeated(estimator):
    X, y, times_N = random_rows()
    y = y[:, None] if isinstance(estimator, MultiOutputRegressor) else y
    weighted = fit_weighted(estimator, X, y, times_N.astype(float), seed=0)
    repeated = estimator.fit(np.repeat(X, times_N, axis=0), np.repeat(y, times_N, axis=0))

    np.testing.assert_allclose(weighted.predict(X), repeated.predict(X))
    assert not np.allclose(weighted.predict(X), estimator.fit(X, y).predict(X))


@pytest.mark.parametrize("made", [
    lambda: make_pipeline(MinMaxScaler(), asking(Ridge())),
    lambda: make_pipeline(MinMaxScaler(), refusing(Ridge())),
    lambda: TransformedTargetRegressor(asking(Ridge())),
    lambda: VotingRegressor([("a", asking(Ridge())), ("b", asking(LinearRegression()))]),
    lambda: GridSearchCV(asking(Ridge().set_score_request(sample_weight=True)), {"alpha": [1.0]}, cv=2),
])  # fmt: skip
def test_a_weight_is_a_row_repeated_under_metadata_routing(made):
    X, y, times_N = random_rows()
    with config_context(enable_metadata_routing=True):
        weighted = fit_weighted(made(), X, y, times_N.astype(float), seed=0)
        repeated = made().fit(np.repeat(X, times_N, axis=0), np.repeat(y, times_N))
    np.testing.assert_allclose(weighted.predict(X), repeated.predict(X))


def test_a_model_that_was_told_nothing_is_named_under_metadata_routing():
    X, y, times_N = random_rows()
    with config_context(enable_metadata_routing=True), pytest.raises(UnsetMetadataPassedError, match=r"Ridge\.fit"):
        fit_weighted(make_pipeline(MinMaxScaler(), Ridge()), X, y, times_N.astype(float), seed=0)


def test_whole_weights_are_rows_and_shares_are_rows_in_the_mean():
    whole_N = np.array([0.0, 1.0, 2.0, 1.0, 3.0])
    share_N = np.linspace(0.05, 1, 20)
    times_SN = np.array([np.bincount(systematic(share_N, seed), minlength=20) for seed in range(2000)])

    assert systematic(whole_N, 3).tolist() == [1, 2, 2, 3, 4, 4, 4]
    assert np.abs(times_SN.mean(axis=0) - share_N).max() < 0.05
    assert np.abs(times_SN.sum(axis=1) - share_N.sum()).max() < 1
    assert systematic(share_N * 1e-6, 5).tolist() == systematic(share_N, 5).tolist()


def test_seeds_are_given_where_none_are():
    forest = RandomForestRegressor()
    assert isinstance(seeded(forest, 1).random_state, int)
    assert seeded(forest, 1).random_state == seeded(forest, 1).random_state != seeded(forest, 2).random_state
    assert forest.random_state is None
    assert seeded(RandomForestRegressor(random_state=7), 1).random_state == 7
    assert isinstance(seeded(make_pipeline(forest), 1)[-1].random_state, int)
