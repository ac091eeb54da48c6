"""The softmax gate: multinomial logistic regression on responsibilities."""

from __future__ import annotations

from copy import copy
from typing import Any, Self

import numpy as np

from sparsemix.classic.multinomial import Logits, ascend
from sparsemix.classic.parts import Array, Gate, Table


class SoftmaxGate(Gate):
    """p(e | x) = softmax_e(v_e z + c_e) on standardised columns z, fitted by damped Newton steps (IRLS).

    Args:
        alpha: penalty alpha / 2 ||v||^2; without it the weights of separable regions grow without end.
        steps: Newton steps an M step at most.

    Source: Jordan & Jacobs (1994), section 4 and appendix A.
    """

    def __init__(self, alpha: float = 1e-3, steps: int = 5) -> None:
        self.alpha = alpha
        self.steps = steps

    def started(self, table: Table, n_experts: int) -> Self:
        new = copy(self)
        total = table.weight_N.sum()
        new.mean_D_ = table.weight_N @ table.X / total
        deviation_D = np.sqrt(table.weight_N @ (table.X - new.mean_D_) ** 2 / total)
        new.scale_D_ = np.where(deviation_D > 0, deviation_D, 1.0)
        new.logits_ = Logits(np.zeros((n_experts, table.X.shape[1])), np.zeros(n_experts), self.alpha)
        return new

    def _features(self, X: Any) -> Array:
        return (X - self.mean_D_) / self.scale_D_

    def log_scores(self, X: Any) -> Array:
        return self.logits_.log_proba(self._features(X))

    def updated(self, table: Table, responsibility_NE: Array) -> Self:
        new = copy(self)
        z_ND = self._features(table.X)
        new.logits_ = ascend(self.logits_, z_ND, responsibility_NE, table.weight_N, self.steps)
        return new

    @property
    def penalty(self) -> float:
        return self.logits_.penalty

    @property
    def n_parameters(self) -> float:
        return (len(self.logits_.coef_KD) - 1) * (self.logits_.coef_KD.shape[1] + 1)

    def only(self, keep_E: Array) -> Self:
        new = copy(self)
        new.logits_ = self.logits_._replace(
            coef_KD=self.logits_.coef_KD[keep_E], intercept_K=self.logits_.intercept_K[keep_E]
        )
        return new
