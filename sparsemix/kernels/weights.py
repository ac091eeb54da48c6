"""The parameters of stacked two-layer experts, their gradients, and which of these are asked for."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class ExpertWeights(NamedTuple):
    """Of E experts. Any strides will do: transposed views of other libraries' checkpoints are served without a copy."""

    up_EGD: Tensor
    """G = 2F for a gated activation, gate rows first or in turns as it says; G = F for a plain one."""
    down_EDF: Tensor
    """its D is the width of y; where both are in sight, O, since that of x may be another."""
    up_bias_EG: Tensor | None = None
    """added before the activation."""
    down_bias_ED: Tensor | None = None
    """added after the down projection, before the combine weight."""


class Gradients(NamedTuple):
    """Of the inputs of an expert MLP; None where there is no such input, or nobody asks."""

    x_TD: Tensor | None = None
    weight_N: Tensor | None = None
    up_EGD: Tensor | None = None
    down_EDF: Tensor | None = None
    up_bias_EG: Tensor | None = None
    down_bias_ED: Tensor | None = None


class Needs(NamedTuple):
    """Which gradients are asked for, in the order of `Gradients`; frozen parameters cost nothing in backward."""

    x_TD: bool = True
    weight_N: bool = True
    up_EGD: bool = True
    down_EDF: bool = True
    up_bias_EG: bool = False
    down_bias_ED: bool = False
