"""Learning from rows as they come: one step of online EM for each batch."""

from __future__ import annotations

from copy import copy
from typing import Any, NamedTuple, Self

from sklearn.utils import check_random_state

from sparsemix.classic.em.mixture import Mixture
from sparsemix.classic.estimators.base import BaseMoE

EXPONENT = 0.7
"""Of the step sizes; between 0.5 and 1, where they add up to infinity and their squares do not."""


class Step(NamedTuple):
    """How a batch enters the statistics: they become `keep` times what they were plus those of the batch."""

    keep: float
    seen: float
    """Weight of all rows so far."""
    held: float
    """Weight that the statistics hold after the batch."""


def step(weight: float, seen: float, held: float) -> Step:
    """The batch's share in the statistics is (its weight / that of all rows so far)^0.7.

    Batches of one size get the step sizes t^-0.7; with the exponent 1 nothing would be forgotten, and the first
    responsibilities, which are the worst, would count as much as all others.

    Args:
        weight: of the batch.
        seen: of all rows before.
        held: that the statistics hold before.

    Source: Cappe & Moulines, "On-line expectation-maximization algorithm for latent data models" (2009).
    """
    share = (weight / (seen + weight)) ** EXPONENT
    return Step((weight / share - weight) / held, seen + weight, weight / share)


class OnlineMoE(BaseMoE):
    """A mixture that can go on learning, where its experts and its gate can."""

    def _can_learn_online(self) -> bool:
        mixture = self.mixture_ if self.__sklearn_is_fitted__() else Mixture(self._as_experts(None), self._as_gate())
        for part in mixture:
            if not part.online:
                raise AttributeError(f"partial_fit: {type(part).__name__} learns from whole tables only; use fit")
        return True

    def _partial_fit(self, X: Any, y: Any, sample_weight: Any, classes: Any = None) -> Self:
        fitted = copy(self)
        if self.__sklearn_is_fitted__():
            fitted._learn(X, y, sample_weight)
        else:
            fitted._fit(X, y, sample_weight, classes)
        return self._become(fitted)

    def _learn(self, X: Any, y: Any, sample_weight: Any) -> None:
        experts, gate = self.mixture_
        table = self._read_table(*self._read_pair(X, y), sample_weight)
        assign = self._assign(check_random_state(self.random_state))
        _, responsibility_NE = assign(self.mixture_.log_joint(table.X, table.y))
        keep, self.seen_weight_, self.held_weight_ = step(table.weight_N.sum(), self.seen_weight_, self.held_weight_)
        weight_NE = table.weight_N[:, None] * responsibility_NE
        self.experts_ = experts.partially_updated(table, weight_NE, keep)
        self.gate_ = gate.partially_updated(table, responsibility_NE, keep)
