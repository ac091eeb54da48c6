"""A tree of gates against plain loops over its paths, and what becomes of lost leaves."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from sparsemix.classic.gates import GaussianGate, SoftmaxGate, TreeGate
from sparsemix.classic.parts import Table

TREES = [(2, 2), (3, 2), (2, 1, 3), (2, 2, 2)]


def drawn(seed: int, experts: int, rows: int = 60) -> tuple[Table, np.ndarray]:
    random = np.random.default_rng(seed)
    x_ND = random.normal(size=(rows, 2))
    responsibility_NE = softmax(x_ND @ random.normal(size=(2, experts)) + random.normal(size=(rows, experts)), axis=1)
    weight_N = random.integers(0, 3, size=rows).astype(float)
    return Table(x_ND, random.normal(size=(rows, 1)), weight_N), responsibility_NE


def fitted(branching: tuple[int, ...], seed: int = 0) -> tuple[TreeGate, Table, np.ndarray]:
    experts = int(np.prod(branching))
    table, responsibility_NE = drawn(seed, experts)
    gate = TreeGate(branching, SoftmaxGate(alpha=0.1)).started(table, experts)
    return gate.updated(table, responsibility_NE), table, responsibility_NE


def nodes(branching: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The way to each node, level by level from the root."""
    return [way for level in range(len(branching)) for way in product(*map(range, branching[:level]))]


def raised(gate, table: Table, responsibility_NE: np.ndarray) -> float:
    return float(table.weight_N @ (responsibility_NE * gate.log_scores(table.X)).sum(axis=1)) - gate.penalty


@pytest.mark.parametrize("branching", TREES)
def test_a_leaf_has_the_product_of_its_path(branching):
    gate, table, _ = fitted(branching)
    proba = dict(zip(nodes(branching), gate.node_proba(table.X), strict=True))
    for e, way in enumerate(product(*map(range, branching))):
        path = [proba[way[:level]][:, way[level]] for level in range(len(branching))]
        np.testing.assert_allclose(np.exp(gate.log_scores(table.X)[:, e]), np.prod(path, axis=0), rtol=1e-12)
    np.testing.assert_allclose(np.exp(gate.log_scores(table.X)).sum(axis=1), 1, rtol=1e-12)


@pytest.mark.parametrize("branching", TREES)
def test_m_step_is_one_of_each_node_on_its_shares(branching):
    gate, table, responsibility_NE = fitted(branching)
    leaves = list(product(*map(range, branching)))
    for node, (way, reached) in enumerate(zip(nodes(branching), gate.node_gates_, strict=True)):
        children = branching[len(way)]
        share_NC = np.zeros((len(table.weight_N), children))
        for n, (e, leaf) in product(range(len(share_NC)), enumerate(leaves)):
            if leaf[: len(way)] == way:
                share_NC[n, leaf[len(way)]] += responsibility_NE[n, e]
        reach_N = share_NC.sum(axis=1)
        alone = SoftmaxGate(alpha=0.1).started(table, children)
        alone = alone.updated(table._replace(weight_N=table.weight_N * reach_N), share_NC / reach_N[:, None])
        np.testing.assert_allclose(reached.log_scores(table.X), alone.log_scores(table.X), atol=1e-9, err_msg=str(node))


@pytest.mark.parametrize("branching", [(4,), (1, 4), (4, 1)])
def test_one_level_is_the_gate_itself(branching):
    tree, table, responsibility_NE = fitted(branching)
    flat = SoftmaxGate(alpha=0.1).started(table, 4).updated(table, responsibility_NE)
    np.testing.assert_allclose(tree.log_scores(table.X), flat.log_scores(table.X), atol=1e-9)
    assert tree.n_parameters == flat.n_parameters
    assert tree.penalty == pytest.approx(flat.penalty)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(TREES))
def test_m_step_never_lowers_what_it_raises(seed, branching):
    gate, table, _ = fitted(branching, seed)
    responsibility_NE = drawn(seed + 1, int(np.prod(branching)))[1]
    before = raised(gate, table, responsibility_NE)
    assert raised(gate.updated(table, responsibility_NE), table, responsibility_NE) >= before - 1e-9 * abs(before)


def test_a_node_that_nothing_reaches_keeps_its_gate():
    gate, table, _ = fitted((2, 2))
    responsibility_NE = np.tile([0.25, 0.75, 0.0, 0.0], (len(table.weight_N), 1))
    assert gate.updated(table, responsibility_NE).node_gates_[2] is gate.node_gates_[2]


def test_tiny_shares_are_no_trouble():
    gate, table, _ = fitted((2, 2))
    responsibility_NE = np.tile([1.0, 1e-200, 3e-310, 1e-310], (len(table.weight_N), 1))
    learned = gate.updated(table, responsibility_NE)
    assert np.isfinite(learned.log_scores(table.X)).all()


def test_a_lost_leaf_leaves_its_share_to_its_siblings():
    gate, table, _ = fitted((2, 3))
    root_NC, left_NC, right_NC = gate.node_proba(table.X)
    kept = np.exp(gate.only(np.array([0, 2, 3, 4, 5])).log_scores(table.X))
    np.testing.assert_allclose(kept[:, 0], root_NC[:, 0] * left_NC[:, 0] / (left_NC[:, 0] + left_NC[:, 2]), rtol=1e-10)
    np.testing.assert_allclose(kept[:, 2:], root_NC[:, 1:] * right_NC, rtol=1e-10)
    np.testing.assert_allclose(kept.sum(axis=1), 1, rtol=1e-10)


def test_nodes_without_a_choice_are_lost_with_their_leaves():
    gate, table, _ = fitted((2, 2, 2))
    only = gate.only(np.array([6, 0, 1]))
    assert len(only.node_gates_) == 2
    root_NC, left_NC = only.node_proba(table.X)
    expected_NE = np.column_stack([root_NC[:, 1], root_NC[:, :1] * left_NC])
    np.testing.assert_allclose(np.exp(only.log_scores(table.X)), expected_NE, rtol=1e-12)
    assert only.n_parameters < gate.n_parameters
    only.updated(table, drawn(3, 3)[1])
    lone = only.only(np.array([False, True, False]))
    assert lone.log_scores(table.X).tolist() == [[0.0]] * len(table.weight_N)
    assert lone.n_parameters == 0


def test_pruned_trees_still_never_fall():
    gate, table, responsibility_NE = fitted((2, 2, 2))
    kept = np.array([7, 1, 2, 4, 5])
    responsibility_NE = responsibility_NE[:, kept] / responsibility_NE[:, kept].sum(axis=1, keepdims=True)
    gate = gate.only(kept)
    learned = gate.updated(table, responsibility_NE)
    assert raised(learned, table, responsibility_NE) > raised(gate, table, responsibility_NE)


@pytest.mark.parametrize("branching", [(), (2, 0), (2.5,), 4, "22"])
def test_refuses_what_is_no_tree(branching):
    table, _ = drawn(0, 4)
    with pytest.raises(ValueError, match="branching: must be whole numbers of children"):
        TreeGate(branching).started(table, 4)


def test_refuses_another_number_of_experts():
    with pytest.raises(ValueError, match="branching: must multiply to n_experts=5"):
        TreeGate((2, 2)).started(drawn(0, 5)[0], 5)


def test_refuses_gates_that_model_x():
    with pytest.raises(ValueError, match="gating: must say p\\(child \\| x\\) in a tree, got GaussianGate, that of x"):
        TreeGate((2, 2), GaussianGate()).started(drawn(0, 4)[0], 4)
