"""Hierarchical mixtures: a worked example, EM against loops over a tree, the start, what nodes say."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from sparsemix.classic import (
    HierarchicalMoEClassifier,
    HierarchicalMoERegressor,
    LinearExperts,
    TreeGate,
)
from sparsemix.classic.parts import Table


@parametrize_with_checks([HierarchicalMoERegressor(), HierarchicalMoEClassifier()])
def test_scikit_learns_checks(estimator, check):
    check(estimator)


def regimes(seed: int = 0, rows: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Four laws in the quadrants of two columns."""
    random = np.random.default_rng(seed)
    x_ND = random.uniform(-1, 1, size=(rows, 2))
    law_N = 2 * (x_ND[:, 0] > 0) + (x_ND[:, 1] > 0)
    slope_ED = np.array([[3.0, 0.0], [0.0, 3.0], [-3.0, 1.0], [1.0, -3.0]])
    return x_ND, (x_ND * slope_ED[law_N]).sum(axis=1) + law_N + 0.05 * random.normal(size=rows)


def jordan_and_jacobs() -> HierarchicalMoERegressor:
    """g = (.8, .2), g_1 = (.9, .1), g_2 = (.5, .5), means (1.1, .3, -.5, .7), unit variances, all for any x.

    Rows at mean +- 1 give each expert its mean and variance; gates learn constant shares without error.
    """
    x_ND, mean_E = np.zeros((8, 1)), np.array([1.1, 0.3, -0.5, 0.7])
    model = HierarchicalMoERegressor(LinearExperts(strength=0)).fit(x_ND + np.arange(8)[:, None], np.arange(8.0))
    y_NM = np.concatenate([mean_E + 1, mean_E - 1])[:, None]
    model.experts_ = model.experts_.updated(Table(x_ND, y_NM, np.ones(8)), np.tile(np.eye(4), (2, 1)))
    model.gate_ = TreeGate((2, 2)).started(Table(x_ND, y_NM, np.ones(8)), 4)
    for _ in range(5):
        share_NE = np.tile([0.8 * 0.9, 0.8 * 0.1, 0.2 * 0.5, 0.2 * 0.5], (8, 1))
        model.gate_ = model.gate_.updated(Table(x_ND, y_NM, np.ones(8)), share_NE)
    return model


def test_worked_example():
    model = jordan_and_jacobs()
    np.testing.assert_allclose(model.node_proba([[0.0]]), [[[0.8, 0.2]], [[0.9, 0.1]], [[0.5, 0.5]]], atol=1e-6)
    assert model.predict([[0.0]]) == pytest.approx(0.836, abs=1e-4)
    joint_E = model.responsibilities([[0.0]], [1.0])[0]
    np.testing.assert_allclose(joint_E, [0.789788, 0.069030, 0.035791, 0.105392], atol=1e-4)
    root_C, left_C, right_C = (share_NC[0] for share_NC in model.node_responsibilities([[0.0]], [1.0]))
    assert root_C[0] == pytest.approx(0.858818, abs=1e-4)
    np.testing.assert_allclose(np.concatenate([root_C[0] * left_C, root_C[1] * right_C]), joint_E, rtol=1e-10)
