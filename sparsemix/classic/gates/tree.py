"""The gate of a hierarchical mixture: a tree of gates whose leaves are the experts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from math import prod
from numbers import Integral
from typing import Any, Self

import numpy as np
from sklearn.utils import Tags, get_tags
from sklearn.utils.validation import _num_samples

from sparsemix.checks import check
from sparsemix.classic.gates.softmax import SoftmaxGate
from sparsemix.classic.numeric.multinomial import normalised
from sparsemix.classic.parts import Array, Gate, Table

STEPS = 3
"""Newton steps of the gate of a node: they cost little for so few children, and EM needs fewer iterations with them."""


class TreeGate(Gate):
    """p(leaf | x) = product over the nodes on the way of p(child | node, x), each node a gate of its own.

    The M step of the tree is one of every node: it fits the children's shares h_{child | node} of each row, with the
    row's weight times h_node. So the tree never lowers the objective where its nodes do not.

    Args:
        branching: children of a node at each level from the root; prod(branching) experts, leaves from left to right.
        gating: the gate of a node, fitted anew for each; None for a `SoftmaxGate` of 3 steps.

    Source: Jordan & Jacobs, "Hierarchical mixtures of experts and the EM algorithm" (1994).
    """

    node_gates_: list[Gate]
    """Gates of the nodes, level by level from the root."""
    route_IE_: Array
    """Which child of node i leads to expert e; -1 where the way to e does not pass i."""

    def __init__(self, branching: Sequence[int] = (2, 2), gating: Gate | None = None) -> None:
        self.branching = branching
        self.gating = gating

    def started(self, table: Table, n_experts: int) -> Self:
        check_branching(self.branching)
        leaves = prod(self.branching)
        check(leaves == n_experts, "branching", f"must multiply to n_experts={n_experts}", f"{self.branching!r}")
        check_conditional(self._node)
        widest = self._node.started(table, max(self.branching))
        new = copy(self)
        new.node_gates_, routes = [], []
        for level, children in enumerate(self.branching):
            for leaves_CL in np.arange(leaves).reshape(prod(self.branching[:level]), children, -1):
                new.node_gates_.append(widest.only(np.arange(children)))
                routes.append(np.full(leaves, -1))
                routes[-1][leaves_CL] = np.arange(children)[:, None]
        new.route_IE_ = np.array(routes)
        return new

    def prepared(self, X: Any) -> Any:
        return self.node_gates_[0].prepared(X) if self.node_gates_ else X

    def log_scores(self, X: Any) -> Array:
        log_NE = np.zeros((_num_samples(X), self.route_IE_.shape[1]))
        for gate, route_E in zip(self.node_gates_, self.route_IE_, strict=True):
            log_NE[:, route_E >= 0] += gate.log_scores(X)[:, route_E[route_E >= 0]]
        return log_NE

    def updated(self, table: Table, responsibility_NE: Array) -> Self:
        new = copy(self)
        new.node_gates_ = [
            gate.updated(rows, share_NC) if rows.weight_N.any() else gate
            for gate, rows, share_NC in self._lessons(table, responsibility_NE)
        ]
        return new

    def partially_updated(self, table: Table, responsibility_NE: Array, keep: float) -> Self:
        new = copy(self)
        new.node_gates_ = [
            gate.partially_updated(rows, share_NC, keep) if rows.weight_N.any() else gate
            for gate, rows, share_NC in self._lessons(table, responsibility_NE)
        ]
        return new

    def _lessons(self, table: Table, responsibility_NE: Array) -> Iterator[tuple[Gate, Table, Array]]:
        """Each node's gate, its rows weighted by how much of them reaches it, and the shares of its children."""
        for gate, route_E in zip(self.node_gates_, self.route_IE_, strict=True):
            children = route_E.max() + 1
            share_NC = responsibility_NE @ (route_E[:, None] == np.arange(children))
            reach_N1 = share_NC.sum(axis=1, keepdims=True)
            np.divide(share_NC, reach_N1, out=share_NC, where=reach_N1 > 0)
            share_NC[reach_N1[:, 0] == 0] = 1 / children
            yield gate, table._replace(weight_N=table.weight_N * reach_N1[:, 0]), share_NC

    def only(self, keep_E: Array) -> Self:
        """The tree of some leaves. What a lost leaf had goes to the other children of its node, not to all leaves.

        A node without leaves is lost too; one with a single child left decides nothing and gives way to that child.
        """
        new = copy(self)
        new.node_gates_, routes = [], []
        route_IE = self.route_IE_[:, keep_E]
        for gate, route_E in zip(self.node_gates_, route_IE, strict=True):
            children = np.unique(route_E[route_E >= 0])
            if len(children) > 1:
                new.node_gates_.append(gate.only(children))
                routes.append(np.where(route_E < 0, -1, np.searchsorted(children, route_E)))
        new.route_IE_ = np.array(routes, dtype=int).reshape(len(routes), route_IE.shape[1])
        return new

    def node_proba(self, X: Any) -> list[Array]:
        """p(child | node, x) of each of `node_gates_`, (N, children)."""
        return [np.exp(gate.log_scores(X)) for gate in self.node_gates_]

    def node_shares(self, log_NE: Array) -> list[Array]:
        """p(child | node) of each of `node_gates_`, (N, children), where exp(log_NE) is in proportion to p(leaf)."""
        shares = []
        for route_E in self.route_IE_:
            below = [np.logaddexp.reduce(log_NE[:, route_E == child], axis=1) for child in range(route_E.max() + 1)]
            shares.append(np.exp(normalised(np.column_stack(below))))
        return shares

    @property
    def penalty(self) -> float:
        return sum(gate.penalty for gate in self.node_gates_)

    @property
    def n_parameters(self) -> float:
        return sum(gate.n_parameters for gate in self.node_gates_)

    @property
    def exact(self) -> bool:
        return self._node.exact

    @property
    def online(self) -> bool:
        return self._node.online

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags = get_tags(self._node).input_tags
        return tags

    @property
    def _node(self) -> Gate:
        return SoftmaxGate(steps=STEPS) if self.gating is None else self.gating


def check_branching(branching: Any) -> None:
    """Refuse what is no sequence of whole numbers, or a tree without leaves."""
    right = isinstance(branching, Sequence | np.ndarray) and len(branching) > 0 and not isinstance(branching, str)
    right = right and all(isinstance(children, Integral) and int(children) >= 1 for children in branching)
    check(right, "branching", "must be whole numbers of children, at least 1, one for each level", repr(branching))


def check_conditional(gate: Gate) -> None:
    """Refuse gates that model x: the normal of a node would count at each level, and paths would not sum to p(x)."""
    seen, remedy = f"{type(gate).__name__}, that of x", "use SoftmaxGate or ClassifierGate, or this gate without a tree"
    check(not gate.models_x, "gating", "must say p(child | x) in a tree", seen, remedy)
