"""Partition by the law of y given x, which clusters of x cannot find: three tests that say what a mixture is for."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.linear_model import LinearRegression

from sparsemix.classic import MoERegressor
from tests.classic.problems import sign_times, two_blobs, two_laws

SEEDS = range(5)


def clustered_error(X, y) -> float:
    """Mean square error of a linear regression in each of two clusters of x: 1/3, all of the variance, if k-means cuts
    x_3; 1/3 - 3/16 if it cuts x_1, where the slope of x_2 follows the sign."""
    group_N = KMeans(2, n_init=10, random_state=0).fit_predict(X)
    error_N = np.empty(len(y))
    for group in (0, 1):
        chosen_N = group_N == group
        error_N[chosen_N] = y[chosen_N] - LinearRegression().fit(X[chosen_N], y[chosen_N]).predict(X[chosen_N])
    return float((error_N**2).mean())


@pytest.mark.parametrize("seed", SEEDS)
def test_laws_that_clusters_of_x_mix(seed):
    X, y = sign_times(seed)
    new_X, new_y = sign_times(seed + 100)
    model = MoERegressor().fit(X, y)
    assert ((model.predict(X) - y) ** 2).mean() < 0.01
    assert ((model.predict(new_X) - new_y) ** 2).mean() < 0.02
    assert min(abs(clustered_error(X, y) - error) for error in (1 / 3, 1 / 3 - 3 / 16)) < 0.04


@pytest.mark.parametrize("seed", SEEDS)
def test_clusters_of_x_with_one_law_need_one_expert(seed):
    X, y = two_blobs(seed)
    one, two = (MoERegressor(n_experts=number).fit(X, y) for number in (1, 2))
    assert two.bic(X, y) > one.bic(X, y)
    assert two.score_samples(X, y).mean() - one.score_samples(X, y).mean() < 0.03


@pytest.mark.parametrize("seed", SEEDS)
def test_laws_that_x_does_not_tell_apart_stay_mixed(seed):
    X, y = two_laws(seed)
    one, two = (MoERegressor(n_experts=number).fit(X, y) for number in (1, 2))
    assert two.gate(X) == pytest.approx(0.5, abs=0.12)
    assert two.predict(X) == pytest.approx(0, abs=0.2)
    assert abs(two.predict(X).mean()) < 0.08
    assert two.score_samples(X, y).mean() - one.score_samples(X, y).mean() > 0.3
    assert sorted(two.experts_.coef_EMD_.ravel()) == pytest.approx([-1, 1], abs=0.02)
