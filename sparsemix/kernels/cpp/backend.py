"""Experts on the CPU by compiled code: nothing between its matrix products leaves the cache, whatever their sizes."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from sparsemix.kernels.activations import Activation
from sparsemix.kernels.combine import gather_sum
from sparsemix.kernels.cpp.call import Call, check_dispatch
from sparsemix.kernels.cpp.library import functions, library
from sparsemix.kernels.memory import fresh
from sparsemix.kernels.weights import ExpertWeights, Gradients, Needs
from sparsemix.routing import Dispatch


def refuses(*tensors: Tensor | None) -> str:
    """Why compiled code cannot serve these tensors; empty if it can."""
    for tensor in tensors:
        if tensor is not None and tensor.device.type != "cpu":
            return f"the device {tensor.device}"
        if tensor is not None and tensor.dtype != torch.float32:
            return f"the type {tensor.dtype}"
    return library().reason


def forward(
    x_TD: Tensor, dispatch: Dispatch, weights: ExpertWeights, activation: Activation
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """(y_TO, saved): the combined outputs, and the pre-activation in panels of as many tokens as a vector has lanes."""
    compiled, call = functions(), _call(x_TD, dispatch, weights, activation)
    lanes = compiled.sparsemix_lanes()
    panels = sum(-(-(end - start) // lanes) for start, end in pairwise(dispatch.bounds.tolist()))
    saved_RG = fresh(x_TD, panels * lanes, weights.up_EGD.shape[1])
    call.point(saved=saved_RG)
    return _rows_combined(compiled.sparsemix_forward, call, fresh(x_TD, len(x_TD), call.out), dispatch), (saved_RG,)


def backward(
    dy_TO: Tensor,
    x_TD: Tensor,
    saved: Sequence[Tensor],
    dispatch: Dispatch,
    weights: ExpertWeights,
    activation: Activation,
    needs: Needs,
) -> Gradients:
    """The gradients asked for, each written once."""
    compiled, call = functions(), _call(x_TD, dispatch, weights, activation)
    assert dy_TO.shape == (call.tokens, call.out), "the gradient of a sum is like the sum"
    dweight_N = dispatch.weight_N.new_zeros(len(dispatch.weight_N), dtype=torch.float32)
    sums = [fresh(of, *of.shape) if of is not None and need else None for of, need in zip(weights, needs[2:])]
    call.point(saved=saved[0], dy=dy_TO, dweight=dweight_N)
    call.point(**dict(zip(("dup", "ddown", "dup_bias", "ddown_bias"), sums, strict=True)))
    call.point(scratch=fresh(x_TD, compiled.sparsemix_scratch(ctypes.byref(call))))
    dx_TD = None
    if needs.x_TD:
        dx_TD = _rows_combined(compiled.sparsemix_backward, call, fresh(x_TD, *x_TD.shape), dispatch)
    else:
        compiled.sparsemix_backward(ctypes.byref(call))
    return Gradients(dx_TD, dweight_N.to(dispatch.weight_N.dtype), *sums)


def _call(x_TD: Tensor, dispatch: Dispatch, weights: ExpertWeights, activation: Activation) -> Call:
    call = Call(x_TD, weights, activation)
    check_dispatch(dispatch, len(x_TD), call.experts)
    call.k = 0 if dispatch.slot_TK is None else dispatch.slot_TK.shape[1]
    call.point(token=dispatch.token_N, weight=dispatch.weight_N.float(), bounds=dispatch.bounds, slot=dispatch.slot_TK)
    return call


def _rows_combined(run: Callable[[object], object], call: Call, y_TO: Tensor, dispatch: Dispatch) -> Tensor:
    """What it writes a row an edge, summed over each token's live rows; by itself where every token has K of them.

    Args:
        run: the compiled function.
        call: what it is told, but for where to write.
        y_TO: fresh memory for the sums.
        dispatch: which rows are a token's.
    """
    num_edges = len(dispatch.token_N)
    one_each = dispatch.slot_TK is not None and int(dispatch.bounds[-1]) == num_edges == len(y_TO)
    y_NO = None if one_each else fresh(y_TO, num_edges, y_TO.shape[1])
    call.point(y_rows=y_NO, y=y_TO)
    run(ctypes.byref(call))
    if y_NO is None or dispatch.slot_TK is not None:
        return y_TO
    y_NO[dispatch.bounds[-1] :].zero_()
    return gather_sum(y_NO, dispatch, len(y_TO))
