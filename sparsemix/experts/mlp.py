"""Two-layer perceptrons, with or without biases: stacked as experts, and one alone as a dense or shared FFN."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from sparsemix.config import config
from sparsemix.experts.base import init_fan_in
from sparsemix.experts.stacked import stacked_mlp
from sparsemix.kernels import ActivationName, BackendName, ExpertWeights, Plain, linear, one_token
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

    def build(self, dim: int, num_experts: int, out_dim: int | None = None) -> MLPExperts:
        """E experts over x of width `dim`; y has that width too, or `out_dim`."""
        return MLPExperts(self, dim, num_experts, out_dim)

    def build_dense(self, dim: int, out_dim: int | None = None) -> MLP:
        """One of them as an ordinary FFN, with no router."""
        return MLP(self, dim, out_dim)


class MLPExperts(nn.Module):
    """E perceptrons."""

    def __init__(self, config: MLPExpertsConfig, dim: int, num_experts: int, out_dim: int | None = None) -> None:
        super().__init__()
        self.config, self.num_experts = config, num_experts
        out_dim = dim if out_dim is None else out_dim
        self.up_EFD = nn.Parameter(torch.empty(num_experts, config.hidden, dim))
        self.down_EDF = nn.Parameter(torch.empty(num_experts, out_dim, config.hidden))
        self.up_bias_EF = nn.Parameter(torch.empty(num_experts, config.hidden)) if config.bias else None
        self.down_bias_ED = nn.Parameter(torch.empty(num_experts, out_dim)) if config.bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Fan-in normal; biases zero."""
        init_fan_in(self)

    def forward(self, x_TD: Tensor, dispatch: Dispatch) -> tuple[Tensor, tuple[Routing, ...]]:
        """Weighted sums (T, D), and no inner routings."""
        return stacked_mlp(x_TD, dispatch, self._weights(), Plain(self.config.activation), self.config), ()

    def one_token(self, x_1D: Tensor, routing: Routing) -> Tensor | None:
        """The weighted sum of one token, straight from its routing, where nobody wants a gradient; else None."""
        return one_token(x_1D, routing, self._weights(), Plain(self.config.activation), self.config.backend)

    def _weights(self) -> ExpertWeights:
        return ExpertWeights(self.up_EFD, self.down_EDF, self.up_bias_EF, self.down_bias_ED)


class MLP(nn.Module):
    """One perceptron on every token."""

    def __init__(self, config: MLPExpertsConfig, dim: int, out_dim: int | None = None) -> None:
        super().__init__()
        self.config = config
        out_dim = dim if out_dim is None else out_dim
        self.up_FD = nn.Parameter(torch.empty(config.hidden, dim))
        self.down_DF = nn.Parameter(torch.empty(out_dim, config.hidden))
        self.up_bias_F = nn.Parameter(torch.empty(config.hidden)) if config.bias else None
        self.down_bias_D = nn.Parameter(torch.empty(out_dim)) if config.bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Fan-in normal; biases zero."""
        init_fan_in(self)

    def forward(self, x: Tensor) -> Tensor:
        """y (..., out) of x (..., D)."""
        a = Plain(self.config.activation).forward(linear(x, self.up_FD, self.up_bias_F))
        return linear(a, self.down_DF, self.down_bias_D)
