"""The mixture for numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import MultiOutputMixin, RegressorMixin

from sparsemix.checks import check
from sparsemix.classic.base import BaseMoE
from sparsemix.classic.blocks import in_blocks
from sparsemix.classic.experts import LinearExperts
from sparsemix.classic.fitted import soft
from sparsemix.classic.flat import FlatMoE
from sparsemix.classic.hierarchy import HierarchicalMoE
from sparsemix.classic.parts import Array, Experts


class Regression(MultiOutputMixin, RegressorMixin, BaseMoE):
    """What mixtures of regression experts do: p(y | x) = sum_e p(e | x) N(y; mu_e(x), sigma_e^2(x))."""

    _y_dtype = np.float64

    output_shape_: tuple[int, ...]
    """() for targets (N,), (M,) for targets (N, M)."""

    def _as_experts(self, random_state: Any) -> Experts:
        return LinearExperts() if self.expert is None else self.expert

    def _num_classes(self) -> None:
        return None

    def _meet(self, y: Array) -> None:
        self.output_shape_ = y.shape[1:]

    def _coded(self, y: Array) -> Array:
        rule = f"must have the shape (N{''.join(f', {size}' for size in self.output_shape_)}) of those fitted"
        check(y.shape[1:] == self.output_shape_, "y", rule, f"shape {y.shape}")
        return y.reshape(len(y), -1)

    def predict(self, X: Any) -> Array:
        """The mean of the mixture, sum_e p(e | x) mu_e(x)."""
        mixture = self.mixture_
        mean_NM = in_blocks(lambda X: soft(mixture, X), self._read(X))
        return mean_NM.reshape(len(mean_NM), *self.output_shape_)


class MoERegressor(Regression, FlatMoE):
    """A mixture of regression experts: p(y | x) = sum_e p(e | x) N(y; mu_e(x), sigma_e^2(x))."""


class HierarchicalMoERegressor(Regression, HierarchicalMoE):
    """A mixture of regression experts, the leaves of a tree of gates: p(e | x) is the product over its path."""
