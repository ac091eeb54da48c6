"""The expert MLP as an operator of PyTorch's: what `torch.compile` sees of back ends that loop on the host.

Backward computes the pre-activation again: in how many pieces of which sizes a back end saves it is nothing that a
compiler can know beforehand.
"""

from typing import Any, Optional

import torch
from torch import Tensor

from sparsemix.kernels.activations import Activation, read, written
from sparsemix.kernels.backend import Backend, BackendName, choose_backend
from sparsemix.kernels.weights import ExpertWeights, Needs
from sparsemix.routing import Dispatch

# Schemas are inferred from annotations: these must be objects rather than strings, and optional in the old way.
_Maybe = Optional[Tensor]  # noqa: UP045


def expert_mlp(
    x_TD: Tensor, dispatch: Dispatch, weights: ExpertWeights, activation: Activation, backend: BackendName
) -> Tensor:
    """As `kernels.expert_mlp.expert_mlp`, in one node of the graph."""
    *indices, all_live = dispatch
    return _forward(x_TD, *weights, *indices, all_live, written(activation), backend)


@torch.library.custom_op("sparsemix::expert_mlp", mutates_args=())
def _forward(
    x_TD: Tensor,
    up_EGD: Tensor,
    down_EOF: Tensor,
    up_bias_EG: _Maybe,
    down_bias_EO: _Maybe,
    token_N: Tensor,
    edge_N: Tensor,
    weight_N: Tensor,
    bounds: Tensor,
    slot_TK: _Maybe,
    all_live: bool,
    activation: str,
    backend: str,
) -> Tensor:
    weights = ExpertWeights(up_EGD, down_EOF, up_bias_EG, down_bias_EO)
    dispatch = Dispatch(token_N, edge_N, weight_N, bounds, slot_TK, all_live)
    return _ops(backend, x_TD, weights).forward(x_TD, dispatch, weights, read(activation))[0]


@torch.library.custom_op("sparsemix::expert_mlp_backward", mutates_args=())
def _backward(
    dy_TO: Tensor,
    x_TD: Tensor,
    up_EGD: Tensor,
    down_EOF: Tensor,
    up_bias_EG: _Maybe,
    down_bias_EO: _Maybe,
    token_N: Tensor,
    edge_N: Tensor,
    weight_N: Tensor,
    bounds: Tensor,
    slot_TK: _Maybe,
    all_live: bool,
    activation: str,
    backend: str,
    needs: list[bool],
) -> list[Tensor]:
    weights = ExpertWeights(up_EGD, down_EOF, up_bias_EG, down_bias_EO)
    dispatch = Dispatch(token_N, edge_N, weight_N, bounds, slot_TK, all_live)
    ops, act = _ops(backend, x_TD, weights), read(activation)
    _, saved = ops.forward(x_TD, dispatch, weights, act)
    found = ops.backward(dy_TO.contiguous(), x_TD, saved, dispatch, weights, act, Needs(*needs))
    # The compiler was told of contiguous ones; Triton's lie as the weights do.
    return [x_TD.new_empty(0) if gradient is None else gradient.contiguous() for gradient in found]


@_forward.register_fake
def _forward_shape(x_TD: Tensor, up_EGD: Tensor, down_EOF: Tensor, *rest: Any) -> Tensor:
    return x_TD.new_empty(x_TD.shape[0], down_EOF.shape[1])


@_backward.register_fake
def _backward_shapes(dy_TO: Tensor, *inputs: Any) -> list[Tensor]:
    x, up, down, up_bias, down_bias, _, _, weight, *_, needs = inputs
    like = (x, weight, up, down, up_bias, down_bias)
    return [of.new_empty(of.shape) if of is not None and need else x.new_empty(0) for of, need in zip(like, needs)]


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:10])
    ctx.rest = inputs[10:]


def _gradients(ctx: Any, dy_TO: Tensor) -> tuple[Tensor | None, ...]:
    x, up, down, up_bias, down_bias, _, _, weight, _, _ = inputs = ctx.saved_tensors
    wanted = ctx.needs_input_grad
    needs = [wanted[0], True, *wanted[1:5]]
    found = _backward(dy_TO, *inputs, *ctx.rest, needs)
    dx, dweight, *dparameters = (
        gradient if of is not None and need else None
        for gradient, of, need in zip(found, (x, weight, up, down, up_bias, down_bias), needs)
    )
    return dx, *dparameters, None, None, dweight, *[None] * 5


_forward.register_autograd(_gradients, setup_context=_save)


def _ops(backend: str, x_TD: Tensor, weights: ExpertWeights) -> Backend:
    name: Any = backend
    ops = choose_backend(name, x_TD, weights).ops
    assert ops is not None, "the reference is a loop under autograd, and cannot be inside an operator"
    return ops
