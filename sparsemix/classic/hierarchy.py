"""Mixtures whose experts are the leaves of a tree of gates: their parameters, and what their nodes can be asked."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from sparsemix.classic.base import BaseMoE
from sparsemix.classic.em import Run
from sparsemix.classic.fitting import Plan, fit_mixture
from sparsemix.classic.gates.tree import TreeGate, check_branching
from sparsemix.classic.parts import Array, Table
from sparsemix.classic.starts import Start

GLIMPSE = 0.01
"""Least share of a row in the start of a node: without it a node may have one row only, or targets all alike."""


class HierarchicalMoE(BaseMoE):
    """A tree of gates over prod(branching) experts.

    Source: Jordan & Jacobs, "Hierarchical mixtures of experts and the EM algorithm" (1994).
    """

    gate_: TreeGate
    """The fitted tree; `gate_.node_gates_` are its gates, level by level from the root."""

    def __init__(
        self,
        expert: Any = None,
        *,
        branching: Sequence[int] = (2, 2),
        cv: Any = 5,
        gating: Any = None,
        em: str = "soft",
        start: str = "splits",
        n_init: int = 1,
        max_iter: int = 200,
        tol: float = 1e-6,
        pooling: str | int = "soft",
        warm_start: bool = False,
        n_jobs: int | None = None,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.expert = expert
        self.branching = branching
        self.cv = cv
        self.gating = gating
        self.em = em
        self.start = start
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.pooling = pooling
        self.warm_start = warm_start
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def _as_gate(self) -> TreeGate:
        return TreeGate(self.branching, super()._as_gate())

    def _numbers(self) -> tuple[int, int]:
        check_branching(self.branching)
        return prod(self.branching), prod(self.branching)

    def _search(self, plan: Plan, table: Table, random_state: np.random.RandomState) -> Run:
        starts = tuple(nested(start, self.branching) for start in plan.starts)
        return fit_mixture(plan._replace(starts=starts), table, self._numbers()[1], random_state)

    def node_proba(self, X: Any) -> list[Array]:
        """p(child | node, x), (N, children), of each node, level by level from the root."""
        X = self._read(X)
        return self.gate_.node_proba(X)

    def node_responsibilities(self, X: Any, y: Any) -> list[Array]:
        """p(child | node, x, y), (N, children), of each node: h_{j|i} of node i's child j; of the root, h_i."""
        mixture = self.mixture_
        return self.gate_.node_shares(mixture.log_joint(*self._read_pair(X, y)))


def nested(start: Start, branching: Sequence[int]) -> Start:
    """A start for a tree: as for a mixture of the root's children, then within each child on its share of the rows.

    So the leaves of one node begin near each other, and tell apart what is one to the nodes above.
    """

    def start_leaves(table: Table, n_experts: int, random: np.random.RandomState) -> Array:
        share_NL = np.ones((len(table.weight_N), 1))
        for children in branching:
            weight_NL = table.weight_N[:, None] * (GLIMPSE + (1 - GLIMPSE) * share_NL)
            parts = [start(table._replace(weight_N=weight_N), children, random) for weight_N in weight_NL.T]
            share_NL = np.column_stack([share_NL[:, [node]] * part_NC for node, part_NC in enumerate(parts)])
        return share_NL

    return start_leaves
