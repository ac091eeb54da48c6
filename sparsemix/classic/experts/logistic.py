"""Logistic classification experts, by damped Newton steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import replace
from typing import Any, Self

import numpy as np
from sklearn.utils import Tags, gen_batches

from sparsemix.checks import check
from sparsemix.classic.numeric.columns import Columns
from sparsemix.classic.numeric.design import Design
from sparsemix.classic.numeric.multinomial import Logits, climb, log_softmax, online_step, uniform
from sparsemix.classic.numeric.threads import one_thread
from sparsemix.classic.parts import Array, Experts, Table

ROWS = 1 << 12


class LogisticExperts(Experts):
    """Experts p(y = k | x, e) = softmax_k(beta_ek z + b_ek) on standardised columns z, fitted by Newton steps (IRLS).

    Args:
        alpha: penalty alpha / 2 ||beta||^2, in rows. An expert often owns a region without errors, where coefficients
            without a penalty grow without end; over hundreds of rows the default is hardly felt.
        steps: Newton steps an M step at most.

    Source: Jordan & Jacobs, "Hierarchical mixtures of experts and the EM algorithm" (1994), appendix A.
    """

    design_: Design
    """How x becomes z."""
    logits_E_: Sequence[Logits]
    curvature_E_: Sequence[Array | None]
    """Second derivatives of each at its last step: what online steps remember of rows before."""

    def __init__(self, alpha: float = 1e-1, steps: int = 5) -> None:
        self.alpha = alpha
        self.steps = steps

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def started(self, table: Table, n_experts: int) -> Self:
        check(self.alpha >= 0, "alpha", "must not be negative", self.alpha)
        check(table.num_classes is not None, "expert", "must predict numbers", "LogisticExperts", "use LinearExperts")
        one = copy(self)
        one.design_ = Design().fitted(table.X, table.weight_N)
        one.logits_E_ = [uniform(table.num_classes or 0, len(one.design_.scale_D_), self.alpha)]
        one.curvature_E_ = [None]
        new = one.updated(table, table.weight_N[:, None]).only(np.zeros(n_experts, dtype=int))
        new.curvature_E_ = [None] * n_experts
        return new

    def prepared(self, X: Any) -> Columns:
        return self.design_.columns(X)

    @one_thread
    def updated(self, table: Table, weight_NE: Array) -> Self:
        z, target_NK = self.design_.columns(table.X), np.eye(self._num_classes)[table.y]
        new = copy(self)
        new.logits_E_, new.curvature_E_ = list(self.logits_E_), list(self.curvature_E_)
        for expert in np.flatnonzero(weight_NE.any(axis=0)).tolist():
            logits, curvature = climb(self.logits_E_[expert], z, target_NK, weight_NE[:, expert], self.steps)
            new.logits_E_[expert], new.curvature_E_[expert] = logits, curvature
        return new

    @property
    def online(self) -> bool:
        return True

    @one_thread
    def partially_updated(self, table: Table, weight_NE: Array, keep: float) -> Self:
        z, target_NK = self.design_.columns(table.X), np.eye(self._num_classes)[table.y]
        new = copy(self)
        new.logits_E_, new.curvature_E_ = list(self.logits_E_), list(self.curvature_E_)
        for expert in np.flatnonzero(weight_NE.any(axis=0)).tolist():
            logits, weight_N = self.logits_E_[expert], weight_NE[:, expert]
            logits, curvature = online_step(logits, self.curvature_E_[expert], keep, z, target_NK, weight_N)
            new.logits_E_[expert], new.curvature_E_[expert] = logits, curvature
        return new

    @property
    def _num_classes(self) -> int:
        return len(self.logits_E_[0].intercept_K)

    @property
    def penalty(self) -> float:
        return sum(logits.penalty for logits in self.logits_E_)

    @property
    def n_parameters(self) -> float:
        return sum(logits.n_parameters for logits in self.logits_E_)

    def only(self, keep_E: Array) -> Self:
        chosen = np.arange(len(self.logits_E_))[keep_E]
        new = copy(self)
        new.logits_E_ = [self.logits_E_[expert] for expert in chosen]
        new.curvature_E_ = [self.curvature_E_[expert] for expert in chosen]
        return new

    @one_thread
    def log_density(self, X: Any, y: Array) -> Array:
        log_NE = np.empty((len(y), len(self.logits_E_)))
        for rows, log_KEN in self._log_proba(X, self.logits_E_):
            log_NE[rows] = log_KEN[y[rows], :, np.arange(log_KEN.shape[2])]
        return log_NE

    def output(self, X: Any) -> Array:
        return self._proba(X, self.logits_E_)

    def output_of(self, expert: int, X: Any) -> Array:
        return self._proba(X, [self.logits_E_[expert]])[:, 0]

    @one_thread
    def _proba(self, X: Any, logits_E: Sequence[Logits]) -> Array:
        proba_NEK = np.empty((X.shape[0], len(logits_E), self._num_classes))
        for rows, log_KEN in self._log_proba(X, logits_E):
            np.exp(log_KEN.T, out=proba_NEK[rows])
        return proba_NEK

    def _log_proba(self, X: Any, logits_E: Sequence[Logits]) -> Iterator[tuple[slice, Array]]:
        """log p(k | x_n, e) as (K, E, rows), some rows at a time: which they are, and theirs."""
        z = self.design_.columns(X)
        coef_LD = np.concatenate([logits.coef_KD for logits in logits_E])
        intercept_KE = np.stack([logits.intercept_K for logits in logits_E], axis=1)
        for rows in gen_batches(z.shape[0], ROWS):
            score_NL = replace(z, raw=z.raw[rows]).times(coef_LD)
            score_KEN = score_NL.T.reshape(len(logits_E), self._num_classes, -1).swapaxes(0, 1)
            yield rows, log_softmax(score_KEN + intercept_KE[:, :, None])
