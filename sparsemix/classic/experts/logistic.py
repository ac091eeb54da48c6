"""Logistic classification experts, by damped Newton steps."""

from __future__ import annotations

from copy import copy
from typing import Any, Self

import numpy as np

from sparsemix.classic.multinomial import Logits, ascend
from sparsemix.classic.parts import Array, Experts, Table


class LogisticExperts(Experts):
    """Experts p(y = k | x, e) = softmax_k(beta_ek z + b_ek) on standardised columns z.

    Args:
        alpha: penalty alpha / 2 ||beta||^2.
        steps: Newton steps an M step at most.

    Source: Jordan & Jacobs (1994), appendix A.
    """

    def __init__(self, alpha: float = 1e-1, steps: int = 5) -> None:
        self.alpha = alpha
        self.steps = steps

    def started(self, table: Table, n_experts: int) -> Self:
        new = copy(self)
        total = table.weight_N.sum()
        new.mean_D_ = table.weight_N @ table.X / total
        deviation_D = np.sqrt(table.weight_N @ (table.X - new.mean_D_) ** 2 / total)
        new.scale_D_ = np.where(deviation_D > 0, deviation_D, 1.0)
        zero = Logits(np.zeros((table.num_classes, table.X.shape[1])), np.zeros(table.num_classes), self.alpha)
        new.logits_E_ = [zero] * n_experts
        return new.updated(table, np.repeat(table.weight_N[:, None], n_experts, axis=1))

    def _features(self, X: Any) -> Array:
        return (X - self.mean_D_) / self.scale_D_

    def updated(self, table: Table, weight_NE: Array) -> Self:
        new = copy(self)
        z_ND = self._features(table.X)
        target_NK = np.eye(table.num_classes)[table.y]
        new.logits_E_ = [
            ascend(logits, z_ND, target_NK, weight_N, self.steps)
            for logits, weight_N in zip(self.logits_E_, weight_NE.T, strict=True)
        ]
        return new

    @property
    def penalty(self) -> float:
        return sum(logits.penalty for logits in self.logits_E_)

    @property
    def n_parameters(self) -> float:
        classes, features = self.logits_E_[0].coef_KD.shape
        return len(self.logits_E_) * (classes - 1) * (features + 1)

    def only(self, keep_E: Array) -> Self:
        new = copy(self)
        new.logits_E_ = [self.logits_E_[expert] for expert in np.arange(len(self.logits_E_))[keep_E]]
        return new

    def log_density(self, X: Any, y: Array) -> Array:
        z_ND = self._features(X)
        return np.stack([logits.log_proba(z_ND)[np.arange(len(y)), y] for logits in self.logits_E_], axis=1)

    def output(self, X: Any) -> Array:
        z_ND = self._features(X)
        return np.exp(np.stack([logits.log_proba(z_ND) for logits in self.logits_E_], axis=1))
