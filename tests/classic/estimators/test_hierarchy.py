"""Hierarchical mixtures: a worked example, EM against loops over a tree, the start, what nodes say."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.linear_model import LinearRegression, LogisticRegression

from sparsemix.classic import (
    GaussianGate,
    HierarchicalMoEClassifier,
    HierarchicalMoERegressor,
    LinearExperts,
    MoERegressor,
    SoftmaxGate,
    TreeGate,
)
from sparsemix.classic.em.mixture import Mixture
from sparsemix.classic.estimators.hierarchy import arranged, in_order
from sparsemix.classic.parts import Table
from sparsemix.classic.starts import STARTS


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
    model = HierarchicalMoERegressor(LinearExperts(alpha=0)).fit(x_ND + np.arange(8)[:, None], np.arange(8.0))
    y_NM = np.concatenate([mean_E + 1, mean_E - 1])[:, None]
    model.experts_ = model.experts_.updated(Table(x_ND, y_NM, np.ones(8)), np.tile(np.eye(4), (2, 1)))
    model.gate_ = TreeGate((2, 2)).started(Table(x_ND, y_NM, np.ones(8)), 4)
    for _ in range(5):
        share_NE = np.tile([0.8 * 0.9, 0.8 * 0.1, 0.2 * 0.5, 0.2 * 0.5], (8, 1))
        model.gate_ = model.gate_.updated(Table(x_ND, y_NM, np.ones(8)), share_NE)
    return model


def test_worked_example():
    model = jordan_and_jacobs()
    np.testing.assert_allclose(model.node_proba([[0.0]]), [[[0.8, 0.2]], [[0.9, 0.1]], [[0.5, 0.5]]], atol=1e-4)
    assert model.predict([[0.0]]) == pytest.approx(0.836, abs=1e-4)
    joint_E = model.responsibilities([[0.0]], [1.0])[0]
    np.testing.assert_allclose(joint_E, [0.789788, 0.069030, 0.035791, 0.105392], atol=1e-4)
    root_C, left_C, right_C = (share_NC[0] for share_NC in model.node_responsibilities([[0.0]], [1.0]))
    assert root_C[0] == pytest.approx(0.858818, abs=1e-4)
    np.testing.assert_allclose(np.concatenate([root_C[0] * left_C, root_C[1] * right_C]), joint_E, rtol=1e-10)


@pytest.mark.parametrize("branching", [(2, 2), (3, 2), (2, 2, 2)])
def test_e_step_is_a_loop_over_the_tree(branching):
    x_ND, y_N = regimes()
    model = HierarchicalMoERegressor(branching=branching, max_iter=3).fit(x_ND, y_N)
    proba = iter(model.node_proba(x_ND))
    g = {way: next(proba) for level in range(len(branching)) for way in product(*map(range, branching[:level]))}
    leaves = list(product(*map(range, branching)))
    mean_NE, variance_E = model.experts_.output(x_ND)[:, :, 0], np.ravel(model.experts_.variance(x_ND))
    h_NE, log_density_N = np.zeros((len(y_N), len(leaves))), np.zeros(len(y_N))
    for n in range(len(y_N)):
        for e, leaf in enumerate(leaves):
            path = np.prod([g[leaf[:level]][n, leaf[level]] for level in range(len(branching))])
            square = (y_N[n] - mean_NE[n, e]) ** 2 / variance_E[e]
            h_NE[n, e] = path * np.exp(-0.5 * square) / np.sqrt(2 * np.pi * variance_E[e])
        log_density_N[n] = np.log(h_NE[n].sum())
        h_NE[n] /= h_NE[n].sum()
    np.testing.assert_allclose(model.responsibilities(x_ND, y_N), h_NE, atol=1e-9)
    np.testing.assert_allclose(model.score_samples(x_ND, y_N), log_density_N, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(model.gate(x_ND).sum(axis=1), 1, rtol=1e-12)
    nodes = iter(model.node_responsibilities(x_ND, y_N))
    for way in g:
        below = [e for e, leaf in enumerate(leaves) if leaf[: len(way)] == way]
        reach_N = h_NE[:, below].sum(axis=1)
        for child, share_N in enumerate(next(nodes).T):
            reach_child_N = sum(h_NE[:, e] for e in below if leaves[e][len(way)] == child)
            np.testing.assert_allclose(share_N * reach_N, reach_child_N, atol=1e-9)


@pytest.mark.parametrize("branching", [(2, 2), (2, 2, 2)])
def test_m_step_of_the_experts_is_least_squares_by_leaf(branching):
    x_ND, y_N = regimes()
    experts = int(np.prod(branching))
    table = Table(x_ND, y_N[:, None], np.ones(len(y_N)))
    h_NE = np.random.default_rng(0).dirichlet(np.ones(experts), size=len(y_N))
    start = Mixture(LinearExperts(alpha=0).started(table, experts), TreeGate(branching).started(table, experts))
    mean_NE = start.updated(table, h_NE).experts.output(x_ND)[:, :, 0]
    one_ND = np.column_stack([x_ND, np.ones(len(x_ND))])
    for e in range(experts):
        root_N = np.sqrt(h_NE[:, e])
        solved_D = np.linalg.lstsq(one_ND * root_N[:, None], y_N * root_N, rcond=None)[0]
        np.testing.assert_allclose(mean_NE[:, e], one_ND @ solved_D, atol=1e-8)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([(2, 2), (3, 1, 2), (2, 3)]), st.sampled_from(["soft", "hard"]))
def test_the_objective_never_falls(seed, branching, em):
    random = np.random.default_rng(seed)
    x_ND, weight_N = random.normal(size=(40, 2)), random.integers(0, 3, size=40)
    y_N = np.abs(x_ND @ random.normal(size=2)) + random.normal() * x_ND[:, 0] + 0.1 * random.normal(size=40)
    model = HierarchicalMoERegressor(branching=branching, em=em, max_iter=15).fit(x_ND, y_N, weight_N)
    path = model.objective_path_
    assert (np.diff(path) >= -1e-8 * np.abs(path[1:])).all()


@pytest.mark.parametrize("branching", [(2,), (1, 2)])
def test_one_level_is_the_flat_mixture(branching):
    x_ND, y_N = regimes()
    tree = HierarchicalMoERegressor(branching=branching, gating=SoftmaxGate(), max_iter=20).fit(x_ND, y_N)
    flat = MoERegressor(n_experts=2, max_iter=20).fit(x_ND, y_N)
    np.testing.assert_allclose(tree.objective_path_, flat.objective_path_, rtol=1e-6)
    np.testing.assert_allclose(tree.predict(x_ND), flat.predict(x_ND), atol=1e-4)


def arm(seed: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Accelerations of a two-link arm in the plane: angles, speeds and torques in."""
    random = np.random.default_rng(seed)
    angle, speed, torque = (random.uniform(-1, 1, size=(rows, 2)) * scale for scale in (np.pi, 1.5, 2.0))
    bend, turn = np.cos(angle[:, 1]), np.sin(angle[:, 1])
    inertia = np.stack([[3 + 2 * bend, 1 + bend], [1 + bend, np.ones(rows)]]).transpose(2, 0, 1)
    pull = turn[:, None] * np.column_stack([-speed[:, 1] * (2 * speed[:, 0] + speed[:, 1]), speed[:, 0] ** 2])
    acceleration = np.linalg.solve(inertia + 0.5 * np.eye(2), (torque - pull)[:, :, None])[:, :, 0]
    return np.column_stack([angle, speed, torque]), acceleration


def test_a_tree_beats_one_linear_model_on_the_dynamics_of_an_arm():
    known, held = arm(0, 2000), arm(1, 1000)
    tree = HierarchicalMoERegressor(branching=(4, 2), max_iter=60).fit(*known)
    unexplained = 1 - tree.score(*held)
    assert unexplained < 0.5 * (1 - LinearRegression().fit(*known).score(*held))


def test_a_tree_finds_quadrants():
    x_ND, y_N = regimes(rows=600)
    tree = HierarchicalMoERegressor().fit(x_ND, y_N)
    assert tree.score(*regimes(seed=1, rows=600)) > 0.97
    assert tree.n_experts_ == len(tree.gate_.node_gates_) + 1 == 4


def test_a_tree_of_classifiers():
    x_ND, y_N = regimes(rows=600)
    label_N = np.where(np.sin(2 * y_N) > 0, "up", "down")
    tree = HierarchicalMoEClassifier(max_iter=60).fit(x_ND, label_N)
    assert tree.score(x_ND, label_N) > LogisticRegression().fit(x_ND, label_N).score(x_ND, label_N) + 0.1
    np.testing.assert_allclose(tree.predict_proba(x_ND).sum(axis=1), 1, rtol=1e-10)


@pytest.mark.parametrize("name", sorted(STARTS))
def test_a_tree_starts_from_the_same_parts(name):
    x_ND, y_N = regimes()
    table = Table(x_ND, y_N[:, None], np.random.default_rng(0).integers(0, 3, size=len(y_N)).astype(float))
    flat_NE = STARTS[name](table, 6, np.random.RandomState(0))
    tree_NE = arranged(STARTS[name], (2, 3))(table, 6, np.random.RandomState(0))
    found = [np.flatnonzero((flat_NE == share_N[:, None]).all(axis=0))[0] for share_N in tree_NE.T]
    assert sorted(found) == list(range(6))


def test_parts_that_are_near_share_nodes():
    place_ED = np.array([[5.0, 0], [0, 1], [5, 1], [0, 0], [9, 9], [9, 8]])
    order = in_order(np.arange(6), place_ED, np.ones(6), (3, 2)).reshape(3, 2)
    assert sorted(sorted(node) for node in order.tolist()) == [[0, 2], [1, 3], [4, 5]]
    again = in_order(np.arange(6), place_ED[::-1], np.ones(6), (3, 2)).reshape(3, 2)
    np.testing.assert_array_equal(place_ED[::-1][again], place_ED[order])


def test_parameters_reach_the_tree():
    gating = SoftmaxGate(alpha=10.0)
    tree = clone(HierarchicalMoERegressor(branching=(3, 2), gating=gating)).set_params(gating__alpha=5.0)
    assert "n_experts" not in tree.get_params()
    tree.fit(*regimes())
    assert tree.n_experts_ == 6
    assert [node.alpha for node in tree.gate_.node_gates_] == [5.0] * 4
    assert gating.alpha == 10.0


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"branching": ()}, "branching: must be whole numbers of children"),
        ({"branching": (2, "2")}, "branching: must be whole numbers of children"),
        ({"gating": GaussianGate()}, "gating: must say p\\(child \\| x\\) in a tree, got GaussianGate"),
        ({"branching": (30, 10)}, "n_samples=200 for n_experts=300"),
    ],
)
def test_bad_trees(parameters, message):
    with pytest.raises(ValueError, match=message):
        HierarchicalMoERegressor(**parameters).fit(*regimes())


def test_online_steps_go_down_the_tree():
    x_ND, y_N = regimes(rows=600)
    model = HierarchicalMoERegressor(max_iter=1).fit(x_ND[:100], y_N[:100])
    before = model.score_samples(x_ND, y_N).mean()
    for first in range(100, 600, 100):
        model.partial_fit(x_ND[first : first + 100], y_N[first : first + 100])
    assert model.score_samples(x_ND, y_N).mean() > before
