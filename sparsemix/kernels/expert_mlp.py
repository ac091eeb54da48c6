"""The expert MLP as one autograd function that saves the input, the pre-activation and indices, no more of size N."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sparsemix.kernels import reference
from sparsemix.kernels.activations import Activation
from sparsemix.kernels.backend import Backend, BackendName, choose_backend
from sparsemix.kernels.combine import gather_sum
from sparsemix.routing import Dispatch


def expert_mlp(
    x_TD: Tensor,
    dispatch: Dispatch,
    up_EGD: Tensor,
    down_EDF: Tensor,
    activation: Activation,
    up_bias_EG: Tensor | None = None,
    down_bias_ED: Tensor | None = None,
    backend: BackendName = "auto",
) -> Tensor:
    """y_n = w_n (W_down act(W_up x_t + b_up) + b_down) for each row n of the dispatch, its token t and its expert.

    The combine weight goes in before the down projection, y = W_down (w a) + w b_down: the same function, and then
    dw = <a, W_down^T dy> + <b_down, dy> needs no saved expert output.

    Args:
        x_TD: tokens.
        dispatch: N rows sorted by expert.
        up_EGD: up projections; G = 2F for a gated activation (gate rows first), F for a plain one.
        down_EDF: down projections.
        activation: what stands between them.
        up_bias_EG: added before the activation.
        down_bias_ED: added after the down projection, before the weight.
        backend: which grouped products to use; `reference` is the loop under autograd.

    Returns:
        (N, D), the dtype of x; gradient flows to x, the weights, the projections and the biases.

    Source: the gradient of the weight is SonicMoE's identity (2512.14080).
    """
    ops = choose_backend(backend, x_TD, up_EGD, down_EDF).ops
    if ops is None:
        return reference.expert_mlp(x_TD, dispatch, up_EGD, down_EDF, activation, up_bias_EG, down_bias_ED)
    return _ExpertMLP.apply(
        x_TD, dispatch.weight_N, up_EGD, down_EDF, up_bias_EG, down_bias_ED, dispatch, activation, ops
    )


class _ExpertMLP(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_TD: Tensor,
        weight_N: Tensor,
        up_EGD: Tensor,
        down_EDF: Tensor,
        up_bias_EG: Tensor | None,
        down_bias_ED: Tensor | None,
        dispatch: Dispatch,
        activation: Activation,
        ops: Backend,
    ) -> Tensor:
        bounds = dispatch.bounds
        w_N1 = weight_N[:, None].to(x_TD.dtype)
        h_NG = ops.grouped_matmul(x_TD.index_select(0, dispatch.token_N), up_EGD, bounds)
        if up_bias_EG is not None:
            h_NG += _spread(up_bias_EG, bounds)
        y_ND = ops.grouped_matmul(activation.forward(h_NG).mul_(w_N1), down_EDF, bounds)
        if down_bias_ED is not None:
            y_ND += w_N1 * _spread(down_bias_ED, bounds)
        ctx.save_for_backward(
            x_TD, h_NG, weight_N, up_EGD, down_EDF, down_bias_ED, dispatch.token_N, bounds, dispatch.slot_TK
        )
        ctx.ops, ctx.activation, ctx.has_up_bias = ops, activation, up_bias_EG is not None
        return y_ND

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        x_TD, h_NG, weight_N, up_EGD, down_EDF, down_bias_ED, token_N, bounds, slot_TK = ctx.saved_tensors
        ops, dy_ND = ctx.ops, grads[0].contiguous()
        w_N1 = weight_N[:, None].to(x_TD.dtype)

        # The gradient of the weighted activation w a, from which those of w and a follow.
        dwa_NF = ops.grouped_matmul_input_grad(dy_ND, down_EDF, bounds)
        a_NF, dh_NG = ctx.activation.recompute(h_NG, dwa_NF * w_N1)
        dw_N = dwa_NF.mul_(a_NF).sum(1, dtype=weight_N.dtype)
        ddown_EDF = ops.grouped_matmul_weight_grad(dy_ND, a_NF.mul_(w_N1), bounds)
        ddown_bias_ED = None
        if down_bias_ED is not None:
            dw_N += (dy_ND * _spread(down_bias_ED, bounds)).sum(1, dtype=weight_N.dtype)
            ddown_bias_ED = _gather_up(dy_ND * w_N1, bounds)

        dup_EGD = ops.grouped_matmul_weight_grad(dh_NG, x_TD.index_select(0, token_N), bounds)
        dup_bias_EG = _gather_up(dh_NG, bounds) if ctx.has_up_bias else None
        dx_ND = ops.grouped_matmul_input_grad(dh_NG, up_EGD, bounds)
        dx_TD = gather_sum(dx_ND, token_N, slot_TK, x_TD.shape[0])
        return dx_TD, dw_N, dup_EGD, ddown_EDF, dup_bias_EG, ddown_bias_ED, None, None, None


def _spread(bias_EG: Tensor, bounds: Tensor) -> Tensor:
    """Each row's own expert's bias, (N, G)."""
    return bias_EG.repeat_interleave(bounds.diff(), dim=0)


def _gather_up(dy_NG: Tensor, bounds: Tensor) -> Tensor:
    """The sum of each expert's rows, (E, G)."""
    return torch.segment_reduce(dy_NG, "sum", offsets=bounds.long(), axis=0, unsafe=True, initial=0)
