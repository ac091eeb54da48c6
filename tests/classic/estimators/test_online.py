"""Learning from batches."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsRegressor

from sparsemix.classic import GaussianGate, MoEClassifier, MoERegressor
from sparsemix.classic.estimators.online import EXPONENT, step
from tests.classic.tables import classes, regimes

BATCH = 100


def test_step_sizes_of_equal_batches_fall_as_a_power_of_their_number():
    seen = held = 50.0
    for number in range(2, 40):
        now = step(50.0, seen, held)
        assert now.keep < 1
        np.testing.assert_allclose(50 / (now.keep * held + 50), number**-EXPONENT)
        _, seen, held = now


def test_regressor_learns_from_batches():
    X, y = regimes(2000)
    model = MoERegressor()
    for first in range(0, 2000, BATCH):
        model.partial_fit(X[first : first + BATCH], y[first : first + BATCH])
    new_X, new_y = regimes(seed=1)
    assert model.score(new_X, new_y) > 0.95
    assert model.seen_weight_ == 2000


def test_batches_improve_on_the_first_one():
    X, y = regimes(4000, seed=2)
    new_X, new_y = regimes(1000, seed=1)
    model = MoERegressor().partial_fit(X[:30], y[:30])
    first = model.score_samples(new_X, new_y).mean()
    for start in range(30, 4000, BATCH):
        model.partial_fit(X[start : start + BATCH], y[start : start + BATCH])
    assert model.score_samples(new_X, new_y).mean() > first


def test_it_follows_a_law_that_changes():
    X, y = regimes(1000)
    model = MoERegressor().fit(X, y)
    for seed in range(1, 60):
        new_X, new_y = regimes(BATCH, seed)
        model.partial_fit(new_X, new_y + 1)
    assert abs(np.mean(model.predict(X) - y - 1)) < 0.3


def test_classes_may_come_later():
    X, y = classes(1000)
    later = MoEClassifier()
    for first in range(0, 1000, BATCH):
        later.partial_fit(X[first : first + BATCH], y[first : first + BATCH], classes=["maybe", "no", "yes"])
    assert list(later.classes_) == ["maybe", "no", "yes"]
    assert later.score(*classes(seed=1)) > 0.85
    with pytest.raises(ValueError, match="classes: must be the same in all calls, got maybe, never in one call only"):
        later.partial_fit(X, y, classes=["never", "no", "yes"])


def test_the_first_batch_is_a_fit():
    X, y = regimes()
    np.testing.assert_array_equal(MoERegressor().partial_fit(X, y).predict(X), MoERegressor().fit(X, y).predict(X))
    with pytest.raises(ValueError, match=r"classes: must be all classes that may come, got None in the first call"):
        MoEClassifier().partial_fit(*classes())
    with pytest.raises(ValueError, match="n_samples=1"):
        MoERegressor().partial_fit(X[:1], y[:1])


def test_one_row_is_a_batch_after_the_first():
    X, y = regimes()
    model = MoERegressor().fit(X, y)
    for row in range(20):
        model.partial_fit(X[row : row + 1], y[row : row + 1])
    assert model.score(X, y) > 0.95


def test_rows_of_weight_0_teach_nothing():
    X, y = regimes()
    models = [MoERegressor().fit(X, y) for _ in range(2)]
    models[0].partial_fit(X[:50], y[:50], sample_weight=np.arange(50) < 30)
    models[1].partial_fit(X[:30], y[:30])
    np.testing.assert_allclose(models[0].predict(X), models[1].predict(X), rtol=1e-9)


def test_a_batch_that_fails_leaves_the_model_as_it_was():
    X, y = regimes()
    model = MoERegressor().fit(X, y)
    before = dict(vars(model))
    with pytest.raises(ValueError, match="expecting 3 features"):
        model.partial_fit(X[:, :2], y)
    assert vars(model) == before


def test_there_is_none_where_a_part_needs_the_whole_table():
    assert not hasattr(MoERegressor(KNeighborsRegressor()), "partial_fit")
    assert hasattr(MoERegressor(gating=GaussianGate()), "partial_fit")
