"""The definition of what experts compute, in plain tensor arithmetic: a loop over experts that knows no kernel."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparsemix.experts import ConcatExperts, ConstantExperts, CopyExperts, ModuleExperts, TiedExperts, ZeroExperts
from sparsemix.experts.glu import GLU, GLUExperts
from sparsemix.experts.mlp import MLP, MLPExperts
from sparsemix.layer import MoE
from sparsemix.routing import Routing

OfRows = Callable[[Tensor], Tensor]
"""(R, *item) -> (R, *out), row by row."""
ROOT_2_PI = math.sqrt(2 / math.pi)

ACTIVATIONS: dict[str, OfRows] = {
    "silu": lambda h: h / (1 + torch.exp(-h)),
    "gelu": lambda h: h * (1 + torch.erf(h / math.sqrt(2))) / 2,
    "gelu_tanh": lambda h: h * (1 + torch.tanh(ROOT_2_PI * (h + 0.044715 * h**3))) / 2,
    "relu": lambda h: h * (h > 0),
    "relu2": lambda h: h * h * (h > 0),
    "sigmoid": lambda h: 1 / (1 + torch.exp(-h)),
    "identity": lambda h: h,
    "cubic": lambda h: h**3,
}


def layer_loop(moe: MoE, x: Tensor, routing: Routing, weight_N: Tensor, out_shape: torch.Size) -> Tensor:
    """y_t = s sum over the live edges n of token t of w_n f_e(x_t), plus the shared expert.

    Args:
        moe: whose parameters are read, in float64.
        x: tokens or items (T, *item), in float64.
        routing: which edges there are, and which of them live.
        weight_N: their combine weights; the routing's own are not read.
        out_shape: of y.
    """
    y = moe.routed_scale * experts_loop(moe.experts, x, routing, weight_N, out_shape)
    if moe.shared is None:
        return y
    shared = dense(moe.shared)(x)
    if moe.shared_gate is not None:
        shared = shared / (1 + torch.exp(-(x @ moe.shared_gate.weight.T)))
    return y + shared


def experts_loop(experts: Any, x: Tensor, routing: Routing, weight_N: Tensor, out_shape: torch.Size) -> Tensor:
    """The routed experts' sum alone."""
    y = x.new_zeros(out_shape)
    for expert, function in enumerate(functions_of(experts)):
        chosen_N = routing.expert_N == expert
        if routing.live_N is not None:
            chosen_N = chosen_N & routing.live_N
        token_R = routing.token_N[chosen_N]
        if len(token_R):
            rows = function(x[token_R])
            y = y.index_add(0, token_R, rows * weight_N[chosen_N].view(-1, *[1] * (rows.ndim - 1)))
    return y


def functions_of(experts: Any) -> Sequence[OfRows]:
    """Each expert as a function of its rows; what experts there are is read from their own config."""
    match experts:
        case GLUExperts() | MLPExperts():
            stacks = [stack.unbind() for stack in experts.parameters()]  # a graph node a stack, not one an expert
            return [two_layers(experts.config, [stack[e] for stack in stacks]) for e in range(experts.num_experts)]
        case ConcatExperts():
            return [function for part in experts.parts for function in functions_of(part)]
        case ZeroExperts():
            return [lambda rows: rows.new_zeros(*rows.shape[:-1], experts.out_dim)] * experts.num_experts
        case CopyExperts():
            return [lambda rows: rows] * experts.num_experts
        case ConstantExperts():
            pairs = zip(experts.share_E2D.unbind(), experts.constant_E1D.unbind())
            return [_constant(share_2D, constant_1D) for share_2D, constant_1D in pairs]
        case TiedExperts():
            distinct = functions_of(experts.experts)
            return [distinct[owner] for owner in experts.owner_E.tolist()]
        case ModuleExperts():
            return [_module(module) for module in experts.experts]
    raise TypeError(f"experts: must be of a kind that has a definition, got {type(experts).__name__}; write it down")


def two_layers(config: Any, weights: Sequence[Tensor]) -> OfRows:
    """W_down a + b_down of matrices in the order of the module's parameters: up, down and perhaps their biases."""
    up_GD, down_OF, *biases = weights
    up_bias, down_bias = biases or (0, 0)

    def function(rows: Tensor) -> Tensor:
        return _activated(config, rows @ up_GD.T + up_bias) @ down_OF.T + down_bias

    return function


def dense(module: Any) -> OfRows:
    """A shared expert; a module that is none of ours is taken as it is."""
    if isinstance(module, GLU | MLP):
        return two_layers(module.config, list(module.parameters()))
    return module


def _activated(config: Any, h: Tensor) -> Tensor:
    """What a config says becomes of the up projection: the gate is its first half."""
    if config.type == "mlp":
        return ACTIVATIONS[config.activation](h)
    gate, up = h[:, : config.hidden], h[:, config.hidden :]
    if config.type == "glu":
        return ACTIVATIONS[config.activation](gate) * up
    assert config.type == "clamped_glu"
    gate, up = gate.clamp(max=config.limit), up.clamp(-config.limit, config.limit)
    return gate / (1 + torch.exp(-config.alpha * gate)) * (up + 1)


def _constant(share_2D: Tensor, constant_1D: Tensor) -> OfRows:
    """[a, b] = softmax(W_c x); a x + b v."""

    def function(rows: Tensor) -> Tensor:
        power = torch.exp(rows @ share_2D.T)
        share = power / power.sum(-1, keepdim=True)
        return share[:, :1] * rows + share[:, 1:] * constant_1D

    return function


def _module(module: nn.Module) -> OfRows:
    """A module of the user's defines itself; of a mixture, which also returns its routing, the output."""

    def function(rows: Tensor) -> Tensor:
        output = module(rows)
        return output[0] if isinstance(output, tuple) else output

    return function
