"""Two-layer perceptrons, with or without biases: stacked as experts, and one alone as a dense or shared FFN."""

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
    Plain,
    expert_mlp,
    linear,
    one_token,
)
from sparsemix.routing import Dispatch, Routing


@config
class MLPExpertsConfig:
    """y = W_down act(W_up x + b_up) + b_down."""

    type: Literal["mlp"] = "mlp"
    hidden: int = Field(ge=1)
    """F, the width between the projections of one expert."""
    activation: ActivationName = "relu"
    """Between the projections."""
    bias: bool = False
    """Add b_up and b_down."""
    backend: BackendName = "auto"
    """Which kernel computes it."""
    recompute: bool = False
    """Compute the pre-activation again in backward instead of keeping its N F numbers: less memory, more time."""

    def build(self, dim: int, num_experts: int) -> MLPExperts:
        """E experts over x of width `dim`."""
        return MLPExperts(self, dim, num_experts)

    def build_dense(self, dim: int) -> MLP:
        """One of them as an ordinary FFN, with no router."""
        return MLP(self, dim)


class MLPExperts(nn.Module):
    """E perceptrons."""

    def __init__(self, config: MLPExpertsConfig, dim: int, num_experts: int) -> None:
        super().__init__()
        self.config, self.num_experts = config, num_experts
        self.up_EFD = nn.Parameter(torch.empty(num_experts, config.hidden, dim))
        self.down_EDF = nn.Parameter(torch.empty(num_experts, dim, config.hidden))
        self.up_bias_EF = nn.Parameter(torch.empty(num_experts, config.hidden)) if config.bias else None
        self.down_bias_ED = nn.Parameter(torch.empty(num_experts, dim)) if config.bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Fan-in normal; biases zero."""
        init_fan_in(self.up_EFD)
        init_fan_in(self.down_EDF)
        if self.up_bias_EF is not None and self.down_bias_ED is not None:
            nn.init.zeros_(self.up_bias_EF)
            nn.init.zeros_(self.down_bias_ED)

    def forward(self, x_TD: Tensor, dispatch: Dispatch) -> tuple[Tensor, tuple[Routing, ...]]:
        """Weighted sums (T, D), and no inner routings."""
        device = x_TD.device
        weights = ExpertWeights(
            autocast(device, self.up_EFD),
            autocast(device, self.down_EDF),
            autocast(device, self.up_bias_EF),
            autocast(device, self.down_bias_ED),
        )
        x_TD, activation = autocast(device, x_TD), Plain(self.config.activation)
        return expert_mlp(x_TD, dispatch, weights, activation, self.config.backend, self.config.recompute), ()

    def one_token(self, x_1D: Tensor, routing: Routing) -> Tensor | None:
        """The weighted sum of one token, straight from its routing, where nobody wants a gradient; else None."""
        weights = ExpertWeights(self.up_EFD, self.down_EDF, self.up_bias_EF, self.down_bias_ED)
        return one_token(x_1D, routing, weights, Plain(self.config.activation), self.config.backend)


class MLP(nn.Module):
    """One perceptron on every token."""

    def __init__(self, config: MLPExpertsConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        self.up_FD = nn.Parameter(torch.empty(config.hidden, dim))
        self.down_DF = nn.Parameter(torch.empty(dim, config.hidden))
        self.up_bias_F = nn.Parameter(torch.empty(config.hidden)) if config.bias else None
        self.down_bias_D = nn.Parameter(torch.empty(dim)) if config.bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Fan-in normal; biases zero."""
        init_fan_in(self.up_FD)
        init_fan_in(self.down_DF)
        if self.up_bias_F is not None and self.down_bias_D is not None:
            nn.init.zeros_(self.up_bias_F)
            nn.init.zeros_(self.down_bias_D)

    def forward(self, x: Tensor) -> Tensor:
        """y of the shape of x (..., D)."""
        a = Plain(self.config.activation).forward(linear(x, self.up_FD, self.up_bias_F))
        return linear(a, self.down_DF, self.down_bias_D)
