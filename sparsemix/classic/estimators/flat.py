"""Mixtures whose experts stand side by side: the number of experts given or found."""

from __future__ import annotations

import numpy as np

from sparsemix.classic.em.loop import Run
from sparsemix.classic.estimators.arguments import Flat
from sparsemix.classic.estimators.base import BaseMoE
from sparsemix.classic.estimators.parameters import check_among, check_range, check_whole
from sparsemix.classic.fitting.mixtures import Plan, fit_mixture
from sparsemix.classic.fitting.selection import CRITERIA, choose
from sparsemix.classic.parts import Array, Table


class FlatMoE(Flat, BaseMoE):
    """One gate over E experts."""

    selection_: dict[str, Array]
    """What was compared to choose the number of experts, columns of one length; only where it was chosen."""

    def _numbers(self) -> tuple[int, int]:
        if isinstance(self.n_experts, str):
            check_among("n_experts", self.n_experts, CRITERIA)
            return check_range("n_experts_range", self.n_experts_range)
        check_whole("n_experts", self.n_experts, 1)
        return self.n_experts, self.n_experts

    def _search(self, plan: Plan, table: Table, random_state: np.random.RandomState) -> Run:
        vars(self).pop("selection_", None)
        least, largest = self._numbers()
        if not isinstance(self.n_experts, str):
            return fit_mixture(plan, table, largest, random_state)
        search = choose(self.n_experts, plan, table, range(least, largest + 1), self.cv, random_state, self.n_jobs)
        self.selection_ = search.criteria
        return search.run
