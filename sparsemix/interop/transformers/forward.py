"""The function that transformers calls instead of the loop of an experts module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sparsemix.experts.base import autocast, live_weights
from sparsemix.interop.transformers.gates import activation_of
from sparsemix.interop.transformers.stored import weights_of
from sparsemix.kernels import Activation, ExpertWeights, at_least_float32, combine, expert_mlp, one_token, spread
from sparsemix.routing import Routing, sort_by_expert


def experts_forward(experts: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """y_t = sum over k of w_tk f_e(x_t) with e = index_tk, where f_e ends in the family's norm if it has one.

    Args:
        experts: a module under transformers' `use_experts_implementation`.
        hidden_states: tokens (T, D).
        top_k_index: experts (T, K); with experts elsewhere, those from the number of the local ones on are skipped.
        top_k_weights: of these, (T, K).

    Returns:
        (T, D) in the dtype of the tokens; gradient flows to tokens, weights and every parameter.

    Raises:
        ValueError: a layout that the kernels cannot serve; names the class and why.
    """
    activation = activation_of(experts)
    weights = weights_of(experts, activation)
    weights = ExpertWeights._make(autocast(hidden_states.device, weight) for weight in weights)
    x_TD = hidden_states.to(weights.up_EGD.dtype)
    routing = _routing(experts, top_k_index, top_k_weights)
    if experts.has_post_expert_norm:
        y_TD = _with_norm(experts.post_expert_norm, x_TD, routing, weights, activation)
    else:
        y_TD = one_token(x_TD, routing, weights, activation, "auto")
        if y_TD is None:
            y_TD = expert_mlp(x_TD, sort_by_expert(routing, len(weights.up_EGD)), weights, activation)
    return y_TD.to(hidden_states.dtype)


def _routing(experts: Any, index_TK: Tensor, weight_TK: Tensor) -> Routing:
    num_tokens, k = index_TK.shape
    expert_N = index_TK.reshape(-1).long()
    return Routing(
        token_N=torch.arange(num_tokens, device=expert_N.device).repeat_interleave(k, output_size=num_tokens * k),
        expert_N=expert_N,
        weight_N=weight_TK.reshape(-1).to(at_least_float32(weight_TK.dtype)),
        live_N=expert_N < experts.num_experts if experts._is_expert_parallel else None,
        edges_per_token=k,
    )


def _with_norm(
    norm: Callable[[Tensor], Tensor], x_TD: Tensor, routing: Routing, weights: ExpertWeights, activation: Activation
) -> Tensor:
    """The combine weight multiplies after the norm: the kernel sees every row as a token of its own, of weight 1."""
    dispatch = sort_by_expert(routing, len(weights.up_EGD))
    row_N = torch.arange(len(dispatch.token_N), device=x_TD.device)
    alone = dispatch._replace(
        token_N=row_N, edge_N=row_N, weight_N=torch.ones_like(dispatch.weight_N), slot_TK=row_N[:, None]
    )
    y_ND = norm(expert_mlp(spread(x_TD, dispatch), alone, weights, activation))
    return combine(y_ND * live_weights(dispatch)[:, None].to(y_ND.dtype), dispatch, len(x_TD))
