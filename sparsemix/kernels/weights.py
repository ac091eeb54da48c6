"""The projections of an expert MLP, which of them need a gradient, and their gradients."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class ExpertWeights(NamedTuple):
    """The projections of E two-layer experts, with any strides."""

    up_EGD: Tensor
    """G = 2F for a gated activation (gate rows first), F for a plain one."""
    down_EDF: Tensor
    up_bias_EG: Tensor | None = None
    down_bias_ED: Tensor | None = None


class Needs(NamedTuple):
    """Which gradients are wanted."""

    x_TD: bool = True
    weight_N: bool = True
    up_EGD: bool = True
    down_EDF: bool = True
    up_bias_EG: bool = True
    down_bias_ED: bool = True


class Gradients(NamedTuple):
    """The gradients; None where not wanted, or where there is no bias."""

    x_TD: Tensor | None = None
    weight_N: Tensor | None = None
    up_EGD: Tensor | None = None
    down_EDF: Tensor | None = None
    up_bias_EG: Tensor | None = None
    down_bias_ED: Tensor | None = None
