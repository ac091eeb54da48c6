"""Mixtures whose experts are the leaves of a tree of gates, and what their nodes can be asked."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from sparsemix.classic.em.loop import Run
from sparsemix.classic.estimators.arguments import Hierarchical
from sparsemix.classic.estimators.base import BaseMoE
from sparsemix.classic.fitting.mixtures import Plan, fit_mixture
from sparsemix.classic.gates.tree import TreeGate, check_branching
from sparsemix.classic.parts import Array, Table
from sparsemix.classic.starts import Start
from sparsemix.classic.starts.seen import seen


class HierarchicalMoE(Hierarchical, BaseMoE):
    """A tree of gates over prod(branching) experts.

    Source: Jordan & Jacobs, "Hierarchical mixtures of experts and the EM algorithm" (1994).
    """

    gate_: TreeGate
    """The fitted tree; `gate_.node_gates_` are its gates, level by level from the root."""

    def _as_gate(self) -> TreeGate:
        return TreeGate(self.branching, None if self.gating is None else super()._as_gate())

    def _numbers(self) -> tuple[int, int]:
        check_branching(self.branching)
        return prod(self.branching), prod(self.branching)

    def _search(self, plan: Plan, table: Table, random_state: np.random.RandomState) -> Run:
        starts = tuple(arranged(start, self.branching) for start in plan.starts)
        return fit_mixture(plan._replace(starts=starts), table, self._numbers()[1], random_state)

    def node_proba(self, X: Any) -> list[Array]:
        """p(child | node, x), (N, children), of each node, level by level from the root."""
        X = self._read(X)
        return self.gate_.node_proba(X)

    def node_responsibilities(self, X: Any, y: Any) -> list[Array]:
        """p(child | node, x, y), (N, children), of each node: h_{j|i} of node i's child j; of the root, h_i."""
        mixture = self.mixture_
        return self.gate_.node_shares(mixture.log_joint(*self._read_pair(X, y)))


def arranged(start: Start, branching: Sequence[int]) -> Start:
    """The same start, its parts in an order in which those of one node are near to one another in x.

    So each gate has a simple cut to learn. All parts are found at once, since the best cut for two experts is often a
    poor one for four.
    """

    def start_leaves(table: Table, n_experts: int, random: np.random.RandomState) -> Array:
        share_NE = start(table, n_experts, random)
        weight_NE = table.weight_N[:, None] * share_NE
        weight_E = np.maximum(weight_NE.sum(axis=0), np.finfo(float).tiny)
        place_ED = weight_NE.T @ seen(table).z_ND / weight_E[:, None]
        return share_NE[:, in_order(np.arange(n_experts), place_ED, weight_E, branching)]

    return start_leaves


def in_order(parts: Array, place_ED: Array, weight_E: Array, branching: Sequence[int]) -> Array:
    """The parts as leaves of a tree: sorted along their principal axis, cut evenly, and so on within each piece."""
    if not len(branching):
        return parts
    centred_PD = place_ED[parts] - np.average(place_ED[parts], axis=0, weights=weight_E[parts])
    axis_D = np.linalg.eigh((centred_PD * weight_E[parts, None]).T @ centred_PD)[1][:, -1]
    axis_D = axis_D * np.sign(axis_D[np.abs(axis_D).argmax()])
    along = parts[np.argsort(np.round(centred_PD @ axis_D, 9), kind="stable")]
    pieces = np.split(along, branching[0])
    return np.concatenate([in_order(piece, place_ED, weight_E, branching[1:]) for piece in pieces])
