"""The softmax gate: multinomial logistic regression on responsibilities."""

from __future__ import annotations

from copy import copy
from typing import Any, Self

from sklearn.utils import Tags

from sparsemix.checks import check
from sparsemix.classic.numeric.design import Design, reading_tags
from sparsemix.classic.numeric.multinomial import Logits, climb, online_step, uniform
from sparsemix.classic.numeric.threads import one_thread
from sparsemix.classic.parts import Array, Gate, Table


class SoftmaxGate(Gate):
    """p(e | x) = softmax_e(v_e z + c_e) on standardised columns z (`Design`), fitted by damped Newton steps (IRLS).

    Args:
        alpha: penalty alpha / 2 ||v||^2 on the log-likelihood of all rows, as if v ~ N(0, 1 / alpha). Small, since
            experts with regions of their own need steep gates; not 0, since gates that are wrong separate few rows too.
        features: a transformer of scikit-learn that makes the columns z is of, for regions that are not linear.
        steps: Newton steps an M step at most; more cost more time than the iterations of EM that they save.

    Source: Jordan & Jacobs (1994), section 4 and appendix A.
    """

    design_: Design
    """How x becomes z."""
    logits_: Logits
    curvature_: Array | None
    """Second derivatives at the last step, as `curvature` has them: what an online step remembers of rows before."""

    def __init__(self, alpha: float = 1e-2, features: Any = None, steps: int = 1) -> None:
        self.alpha = alpha
        self.features = features
        self.steps = steps

    def __sklearn_tags__(self) -> Tags:
        return reading_tags(super().__sklearn_tags__(), self.features)

    def started(self, table: Table, n_experts: int) -> Self:
        check(self.alpha >= 0, "alpha", "must not be negative", self.alpha)
        new = copy(self)
        new.design_ = Design(self.features).fitted(table.X, table.weight_N)
        new.logits_ = uniform(n_experts, len(new.design_.scale_D_), self.alpha)
        new.curvature_ = None
        return new

    def prepared(self, X: Any) -> Any:
        return self.design_.columns(X)

    @one_thread
    def log_scores(self, X: Any) -> Array:
        return self.logits_.log_proba(self.design_.columns(X))

    @one_thread
    def updated(self, table: Table, responsibility_NE: Array) -> Self:
        new = copy(self)
        z = self.design_.columns(table.X)
        new.logits_, new.curvature_ = climb(self.logits_, z, responsibility_NE, table.weight_N, self.steps)
        return new

    @property
    def online(self) -> bool:
        return True

    @one_thread
    def partially_updated(self, table: Table, responsibility_NE: Array, keep: float) -> Self:
        new = copy(self)
        z = self.design_.columns(table.X)
        learned = online_step(self.logits_, self.curvature_, keep, z, responsibility_NE, table.weight_N)
        new.logits_, new.curvature_ = learned
        return new

    @property
    def penalty(self) -> float:
        return self.logits_.penalty

    @property
    def n_parameters(self) -> float:
        return self.logits_.n_parameters

    def only(self, keep_E: Array) -> Self:
        new = copy(self)
        new.logits_ = self.logits_.only(keep_E)
        if self.curvature_ is not None:
            new.curvature_ = self.curvature_[keep_E][:, keep_E]
        return new
