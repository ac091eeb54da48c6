"""Experts and their activations, one token at a time."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from references.gates import softmax


def activation(name: str, x: Tensor) -> Tensor:
    return {
        "silu": lambda: x / (1 + torch.exp(-x)),
        "gelu": lambda: x * (1 + torch.erf(x / math.sqrt(2))) / 2,
        "gelu_tanh": lambda: x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
        "relu": lambda: torch.where(x > 0, x, 0.0),
        "relu2": lambda: torch.where(x > 0, x * x, 0.0),
        "sigmoid": lambda: 1 / (1 + torch.exp(-x)),
        "identity": lambda: x,
        "cubic": lambda: x * x * x,
    }[name]()


def clamped(gate_F: Tensor, up_F: Tensor, limit: float, alpha: float, offset: float = 1.0) -> Tensor:
    """As the experts of gpt-oss: gates are clamped from above, what they multiply on both sides."""
    gate_F = torch.where(gate_F > limit, limit, gate_F)
    up_F = torch.where(up_F > limit, limit, torch.where(up_F < -limit, -limit, up_F))
    return gate_F / (1 + torch.exp(-alpha * gate_F)) * (up_F + offset)


def glu(x_D: Tensor, gate_up_GD: Tensor, down_DF: Tensor, name: str) -> Tensor:
    hidden = down_DF.shape[1]
    gate_F, up_F = gate_up_GD[:hidden] @ x_D, gate_up_GD[hidden:] @ x_D
    return down_DF @ (activation(name, gate_F) * up_F)


def mlp(
    x_D: Tensor,
    up_FD: Tensor,
    down_DF: Tensor,
    name: str,
    up_bias_F: Tensor | float = 0.0,
    down_bias_D: Tensor | float = 0.0,
) -> Tensor:
    return down_DF @ activation(name, up_FD @ x_D + up_bias_F) + down_bias_D


def constant(x_D: Tensor, gate_2D: Tensor, value_D: Tensor) -> Tensor:
    """MoE++: a_1 x + a_2 v with (a_1, a_2) = softmax(W_c x)."""
    own, fixed = softmax(gate_2D @ x_D)
    return own * x_D + fixed * value_D
