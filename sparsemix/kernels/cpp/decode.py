"""What generation is made of, compiled: a matrix times one row, the experts of one token, norms. No autograd."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from sparsemix.checks import check
from sparsemix.kernels.activations import Activation
from sparsemix.kernels.cpp.backend import refuses
from sparsemix.kernels.cpp.call import Call
from sparsemix.kernels.cpp.library import functions
from sparsemix.kernels.weights import ExpertWeights


def takes_one_row(x_1D: Tensor, w_FD: Tensor, bias_F: Tensor | None) -> bool:
    """Whether it can serve these: rows must be contiguous."""
    return w_FD.stride(1) == 1 and not refuses(x_1D, w_FD, bias_F)


def one_row(x_1D: Tensor, w_FD: Tensor, bias_F: Tensor | None = None) -> Tensor:
    """x W^T + b, (1, F).

    Raises:
        ValueError: shapes that do not go together.
    """
    rows, columns = w_FD.shape
    check(x_1D.shape == (1, columns), "x_1D", "must be one row, as long as those of w_FD", x_1D.shape)
    if bias_F is not None:
        check(bias_F.shape == (rows,), "bias_F", "must be as long as w_FD has rows", bias_F.shape)
        bias_F = bias_F.contiguous()
    x_1D, y_1F = x_1D.contiguous(), x_1D.new_empty(1, rows)
    functions().sparsemix_one_row(
        *(w_FD.data_ptr(), w_FD.stride(0), None if bias_F is None else bias_F.data_ptr(), x_1D.data_ptr()),
        *(y_1F.data_ptr(), rows, columns, torch.get_num_threads()),
    )
    return y_1F


def takes_one_token(x_1D: Tensor, weights: ExpertWeights) -> bool:
    """Whether it can serve these: rows must be contiguous."""
    return weights.up_EGD.stride(2) == weights.down_EDF.stride(2) == 1 and not refuses(x_1D, *weights)


def one_token(
    x_1D: Tensor, expert_K: Tensor, weight_K: Tensor, weights: ExpertWeights, activation: Activation
) -> Tensor:
    """The weighted sum over K experts, (1, O).

    Raises:
        ValueError: shapes that do not go together, or an expert that is not there.
    """
    call, experts = Call(x_1D, weights, activation), expert_K.tolist()
    call.k, y_1O = len(experts), x_1D.new_empty(1, call.out)
    there = not experts or 0 <= min(experts) <= max(experts) < call.experts
    check(there, "expert_K", f"must be in 0..{call.experts - 1}", experts)
    assert len(x_1D) == 1, "callers look how many there are"
    assert len(weight_K) == call.k, "a routing has a weight an edge"
    call.point(weight=weight_K.float(), y=y_1O)
    functions().sparsemix_one_token(ctypes.byref(call), (ctypes.c_int64 * call.k)(*experts))
    return y_1O


def rms_norm(x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis, (..., D).

    Raises:
        ValueError: a weight that is not as long as that axis.
    """
    check(weight_D.shape == x.shape[-1:], "weight_D", "must be as long as the last axis of x", weight_D.shape)
    x, weight_D = x.contiguous(), weight_D.contiguous()
    y, rows, threads = torch.empty_like(x), x.shape[:-1].numel(), torch.get_num_threads()
    functions().sparsemix_rms_norm(x.data_ptr(), weight_D.data_ptr(), y.data_ptr(), rows, len(weight_D), eps, threads)
    return y
