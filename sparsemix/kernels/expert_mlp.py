"""The expert MLP as one autograd function that saves the input, the pre-activation and indices, no more of size N."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from sparsemix.checks import check
from sparsemix.kernels import compiled, reference
from sparsemix.kernels.activations import Activation, Custom
from sparsemix.kernels.backend import Backend, BackendName, choose_backend
from sparsemix.kernels.weights import ExpertWeights, Needs
from sparsemix.routing import Dispatch


def expert_mlp(
    x_TD: Tensor,
    dispatch: Dispatch,
    weights: ExpertWeights,
    activation: Activation,
    backend: BackendName = "auto",
    recompute: bool = False,
) -> Tensor:
    """y_t = sum over the live rows n of token t of w_n (W_down act(W_up x_t + b_up) + b_down), each with its expert.

    The combine weight goes in before the down projection, y = W_down (w a) + w b_down: the same function, and then
    dw = <a, W_down^T dy> + <b_down, dy> needs no saved expert output.

    Args:
        x_TD: tokens.
        dispatch: N rows sorted by expert.
        weights: of the experts, in the dtype of x.
        activation: what stands between the projections.
        backend: who computes it; `reference` is the loop under autograd.
        recompute: keep no pre-activation, so that nothing of size N F lives until backward, which computes it again.
            Compiled, it always does.

    Returns:
        (T, O), where W_down is (O, F), in the dtype of x; gradient flows to x, the combine weights and the experts'
        weights.

    Raises:
        ValueError: the back end asked for, or the compiler, cannot serve the tensors or the activation.

    Source: the gradient of the combine weight is SonicMoE's identity (2512.14080).
    """
    if torch.compiler.is_compiling() and backend != "reference":
        rule, remedy = "must be one that has a name to be compiled", "leave the experts out: torch.compiler.disable"
        check(not isinstance(activation, Custom), "activation", rule, "a function of PyTorch's", remedy)
        return compiled.expert_mlp(x_TD, dispatch, weights, activation, backend)
    ops = choose_backend(backend, x_TD, weights, activation).ops
    if ops is None and recompute:
        arguments = (x_TD, dispatch, weights, activation)
        return checkpoint(reference.expert_mlp, *arguments, use_reentrant=False, preserve_rng_state=False)
    if ops is None:
        return reference.expert_mlp(x_TD, dispatch, weights, activation)
    return _ExpertMLP.apply(x_TD, dispatch.weight_N, *weights, dispatch, activation, ops, recompute)


class _ExpertMLP(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_TD: Tensor,
        weight_N: Tensor,
        up_EGD: Tensor,
        down_EOF: Tensor,
        up_bias_EG: Tensor | None,
        down_bias_EO: Tensor | None,
        dispatch: Dispatch,
        activation: Activation,
        ops: Backend,
        recompute: bool,
    ) -> Tensor:
        weights = ExpertWeights(up_EGD, down_EOF, up_bias_EG, down_bias_EO)
        y_TO, saved = ops.forward(x_TD, dispatch, weights, activation)
        *indices, all_live = dispatch._replace(weight_N=weight_N)
        ctx.save_for_backward(x_TD, *weights, *indices, *(() if recompute else saved))
        ctx.ops, ctx.activation, ctx.all_live, ctx.recompute = ops, activation, all_live, recompute
        return y_TO

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        x_TD, up, down, up_bias, down_bias, *indices = ctx.saved_tensors
        dispatch, saved = Dispatch(*indices[:5], all_live=ctx.all_live), indices[5:]
        weights = ExpertWeights(up, down, up_bias, down_bias)
        needs = Needs(*ctx.needs_input_grad[: len(Needs._fields)])
        if ctx.recompute:
            _, saved = ctx.ops.forward(x_TD, dispatch, weights, ctx.activation)
        found = ctx.ops.backward(grads[0].contiguous(), x_TD, saved, dispatch, weights, ctx.activation, needs)
        return *found, None, None, None, None
