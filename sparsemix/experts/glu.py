"""Gated linear units (SwiGLU by default): stacked as experts, and one alone as a dense or shared FFN."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from sparsemix.config import config
from sparsemix.experts.base import init_fan_in
from sparsemix.experts.stacked import stacked_mlp
from sparsemix.kernels import (
    Activation,
    ActivationName,
    BackendName,
    ClampedGated,
    ExpertWeights,
    Gated,
    linear,
    one_token,
)
from sparsemix.routing import Dispatch, Routing


@config
class GLUExpertsConfig:
    """y = W_down (act(W_gate x + b_gate) * (W_up x + b_up)) + b_down."""

    type: Literal["glu"] = "glu"
    hidden: int = Field(ge=1)
    """F, the width between the projections of one expert."""
    activation: ActivationName = "silu"
    """Applied to the gate; silu makes it a SwiGLU."""
    bias: bool = False
    """Add the biases."""
    backend: BackendName = "auto"
    """Which kernel computes it."""
    recompute: bool = False
    """Compute the pre-activation again in backward instead of keeping its 2 N F numbers: less memory, more time."""

    @property
    def gating(self) -> Activation:
        """What becomes of the gate and the up projection."""
        return Gated(self.activation)

    def build(self, dim: int, num_experts: int, out_dim: int | None = None) -> GLUExperts:
        """E experts over x of width `dim`; y has that width too, or `out_dim`."""
        return GLUExperts(self, dim, num_experts, out_dim)

    def build_dense(self, dim: int, out_dim: int | None = None) -> GLU:
        """One of them as an ordinary FFN, with no router."""
        return GLU(self, dim, out_dim)


@config
class ClampedGLUExpertsConfig:
    """y = W_down (g sigmoid(alpha g) (u + 1)) + b_down; g = min(W_gate x + b_gate, limit), u = W_up x + b_up clamped.

    Source: gpt-oss (2508.10925). Differs: there the rows of gate and up projection alternate.
    """

    type: Literal["clamped_glu"] = "clamped_glu"
    hidden: int = Field(ge=1)
    """F, the width between the projections of one expert."""
    limit: float = Field(7.0, gt=0)
    """The most that g may be, and |u|."""
    alpha: float = Field(1.702, gt=0)
    """How steep the gate is; with 1.702 it is nearly a GELU."""
    bias: bool = True
    """Add the biases."""
    backend: BackendName = "auto"
    """Which kernel computes it."""
    recompute: bool = False
    """Compute the pre-activation again in backward instead of keeping its 2 N F numbers: less memory, more time."""

    @property
    def gating(self) -> Activation:
        """What becomes of the gate and the up projection."""
        return ClampedGated(self.limit, self.alpha, interleaved=False)

    def build(self, dim: int, num_experts: int, out_dim: int | None = None) -> GLUExperts:
        """E experts over x of width `dim`; y has that width too, or `out_dim`."""
        return GLUExperts(self, dim, num_experts, out_dim)

    def build_dense(self, dim: int, out_dim: int | None = None) -> GLU:
        """One of them as an ordinary FFN, with no router."""
        return GLU(self, dim, out_dim)


class GLUExperts(nn.Module):
    """E gated units. Rows of `gate_up_EFD` (E, 2F, D): F of the gate, then F of the up projection."""

    def __init__(
        self,
        config: GLUExpertsConfig | ClampedGLUExpertsConfig,
        dim: int,
        num_experts: int,
        out_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.config, self.num_experts = config, num_experts
        out_dim = dim if out_dim is None else out_dim
        self.gate_up_EFD = nn.Parameter(torch.empty(num_experts, 2 * config.hidden, dim))
        self.down_EDF = nn.Parameter(torch.empty(num_experts, out_dim, config.hidden))
        self.gate_up_bias_EF = nn.Parameter(torch.empty(num_experts, 2 * config.hidden)) if config.bias else None
        self.down_bias_ED = nn.Parameter(torch.empty(num_experts, out_dim)) if config.bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Fan-in normal; biases zero."""
        init_fan_in(self)

    def forward(self, x_TD: Tensor, dispatch: Dispatch) -> tuple[Tensor, tuple[Routing, ...]]:
        """Weighted sums (T, D), and no inner routings."""
        return stacked_mlp(x_TD, dispatch, self._weights(), self.config.gating, self.config), ()

    def one_token(self, x_1D: Tensor, routing: Routing) -> Tensor | None:
        """The weighted sum of one token, straight from its routing, where nobody wants a gradient; else None."""
        return one_token(x_1D, routing, self._weights(), self.config.gating, self.config.backend)

    def _weights(self) -> ExpertWeights:
        return ExpertWeights(self.gate_up_EFD, self.down_EDF, self.gate_up_bias_EF, self.down_bias_ED)


class GLU(nn.Module):
    """One gated unit on every token: the dense FFN of a decoder, or the shared expert of an MoE."""

    def __init__(
        self, config: GLUExpertsConfig | ClampedGLUExpertsConfig, dim: int, out_dim: int | None = None
    ) -> None:
        super().__init__()
        self.config = config
        out_dim = dim if out_dim is None else out_dim
        self.gate_up_FD = nn.Parameter(torch.empty(2 * config.hidden, dim))
        self.down_DF = nn.Parameter(torch.empty(out_dim, config.hidden))
        self.gate_up_bias_F = nn.Parameter(torch.empty(2 * config.hidden)) if config.bias else None
        self.down_bias_D = nn.Parameter(torch.empty(out_dim)) if config.bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Fan-in normal; biases zero."""
        init_fan_in(self)

    def forward(self, x: Tensor) -> Tensor:
        """y (..., out) of x (..., D)."""
        a = self.config.gating.forward(linear(x, self.gate_up_FD, self.gate_up_bias_F))
        return linear(a, self.down_DF, self.down_bias_D)
