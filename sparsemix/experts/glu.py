"""Gated linear units (SwiGLU by default): stacked as experts, and one alone as a dense or shared FFN."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from sparsemix.config import config
from sparsemix.experts.base import autocast, init_fan_in
from sparsemix.kernels import (
    ActivationName,
    BackendName,
    ExpertWeights,
    Gated,
    expert_mlp,
    linear,
    one_token,
)
from sparsemix.routing import Dispatch, Routing


@config
class GLUExpertsConfig:
    """y = W_down (act(W_gate x) * W_up x), without biases."""

    type: Literal["glu"] = "glu"
    hidden: int = Field(ge=1)
    """F, the width between the projections of one expert."""
    activation: ActivationName = "silu"
    """Applied to the gate; silu makes it a SwiGLU."""
    backend: BackendName = "auto"
    """Which kernel computes it."""
    recompute: bool = False
    """Compute the pre-activation again in backward instead of keeping its 2 N F numbers: less memory, more time."""

    def build(self, dim: int, num_experts: int) -> GLUExperts:
        """E experts over x of width `dim`."""
        return GLUExperts(self, dim, num_experts)

    def build_dense(self, dim: int) -> GLU:
        """One of them as an ordinary FFN, with no router."""
        return GLU(self, dim)


class GLUExperts(nn.Module):
    """E gated units. Rows of `gate_up_EFD` (E, 2F, D): F of the gate, then F of the up projection."""

    def __init__(self, config: GLUExpertsConfig, dim: int, num_experts: int) -> None:
        super().__init__()
        self.config, self.num_experts = config, num_experts
        self.gate_up_EFD = nn.Parameter(torch.empty(num_experts, 2 * config.hidden, dim))
        self.down_EDF = nn.Parameter(torch.empty(num_experts, dim, config.hidden))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Fan-in normal."""
        init_fan_in(self.gate_up_EFD)
        init_fan_in(self.down_EDF)

    def forward(self, x_TD: Tensor, dispatch: Dispatch) -> tuple[Tensor, tuple[Routing, ...]]:
        """Weighted sums (T, D), and no inner routings."""
        x_TD, gate_up_EGD, down_EDF = (
            autocast(x_TD.device, tensor) for tensor in (x_TD, self.gate_up_EFD, self.down_EDF)
        )
        weights, activation = ExpertWeights(gate_up_EGD, down_EDF), Gated(self.config.activation)
        return expert_mlp(x_TD, dispatch, weights, activation, self.config.backend, self.config.recompute), ()

    def one_token(self, x_1D: Tensor, routing: Routing) -> Tensor | None:
        """The weighted sum of one token, straight from its routing, where nobody wants a gradient; else None."""
        weights = ExpertWeights(self.gate_up_EFD, self.down_EDF)
        return one_token(x_1D, routing, weights, Gated(self.config.activation), self.config.backend)


class GLU(nn.Module):
    """One gated unit on every token: the dense FFN of a decoder, or the shared expert of an MoE."""

    def __init__(self, config: GLUExpertsConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        self.gate_up_FD = nn.Parameter(torch.empty(2 * config.hidden, dim))
        self.down_DF = nn.Parameter(torch.empty(dim, config.hidden))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Fan-in normal."""
        init_fan_in(self.gate_up_FD)
        init_fan_in(self.down_DF)

    def forward(self, x: Tensor) -> Tensor:
        """y of the shape of x (..., D)."""
        return linear(Gated(self.config.activation).forward(linear(x, self.gate_up_FD)), self.down_DF)
