"""Weights reach estimators of all sorts."""

import numpy as np
import pytest
from sklearn import config_context
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.multioutput import MultiOutputRegressor
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sparsemix.classic.experts.weighting import fit_weighted, seeded, systematic, weight_argument


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
    ],
)
def test_the_argument_that_takes_weights(estimator, argument):
    assert weight_argument(estimator) == argument


def test_under_metadata_routing_weights_go_where_they_are_asked_for():
    with config_context(enable_metadata_routing=True):
        assert weight_argument(Ridge()) == "sample_weight"
        assert weight_argument(make_pipeline(StandardScaler(), Ridge())) is None
        scaler = StandardScaler().set_fit_request(sample_weight=False)
        asking = make_pipeline(scaler, Ridge().set_fit_request(sample_weight=True))
        assert weight_argument(asking) == "sample_weight"


@pytest.mark.parametrize(
    "estimator", [Ridge(), make_pipeline(StandardScaler(with_mean=False, with_std=False), Ridge())]
)
def test_fits_are_weighted(estimator):
    random = np.random.default_rng(0)
    X, y = random.normal(size=(30, 2)), random.normal(size=30)
    times_N = random.integers(0, 3, 30)
    weighted = fit_weighted(estimator, X, y, times_N.astype(float), seed=0)
    repeated = Ridge().fit(np.repeat(X, times_N, axis=0), np.repeat(y, times_N))

    assert np.allclose(weighted.predict(X), repeated.predict(X))


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
