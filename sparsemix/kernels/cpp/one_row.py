"""What generation is made of, compiled: a matrix times one row, the experts of one token, norms. No autograd."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from sparsemix.kernels.activations import Activation
from sparsemix.kernels.cpp.backend import refuses
from sparsemix.kernels.cpp.call import Call
from sparsemix.kernels.cpp.library import functions, library
from sparsemix.kernels.weights import ExpertWeights


def takes(*tensors: Tensor | None) -> bool:
    """Whether all are float32 on a CPU, and the library is there."""
    for tensor in tensors:
        if tensor is not None and (tensor.dtype != torch.float32 or tensor.device.type != "cpu"):
            return False
    return library().functions is not None


def takes_one_row(x_1D: Tensor, w_FD: Tensor, bias_F: Tensor | None) -> bool:
    """Whether it can serve these: rows must be contiguous."""
    return w_FD.stride(1) == 1 and takes(x_1D, w_FD, bias_F)


def one_row(x_1D: Tensor, w_FD: Tensor, bias_F: Tensor | None = None) -> Tensor:
    """x W^T + b, (1, F)."""
    x_1D, y_1F = x_1D.contiguous(), x_1D.new_empty(1, len(w_FD))
    bias_F = None if bias_F is None else bias_F.contiguous()
    functions().sparsemix_one_row(
        *(w_FD.data_ptr(), w_FD.stride(0), None if bias_F is None else bias_F.data_ptr(), x_1D.data_ptr()),
        *(y_1F.data_ptr(), *w_FD.shape, torch.get_num_threads()),
    )
    return y_1F


def takes_one_token(x_1D: Tensor, weights: ExpertWeights, activation: Activation) -> bool:
    """Whether it can serve these: rows must be contiguous."""
    return weights.up_EGD.stride(2) == weights.down_EDF.stride(2) == 1 and not refuses(x_1D, weights, activation)


def one_token(
    x_1D: Tensor, expert_K: Tensor, weight_K: Tensor, weights: ExpertWeights, activation: Activation
) -> Tensor:
    """The weighted sum over K experts, (1, D)."""
    call, y_1D, expert_K = Call(x_1D, weights, activation), x_1D.new_empty(x_1D.shape), expert_K.contiguous()
    call.k = len(expert_K)
    call.point(weight=weight_K.float(), y=y_1D)
    functions().sparsemix_one_token(ctypes.byref(call), expert_K.data_ptr())
    return y_1D


def rms_norm(x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis, (..., D)."""
    x, weight_D = x.contiguous(), weight_D.contiguous()
    y, dim = torch.empty_like(x), x.shape[-1]
    functions().sparsemix_rms_norm(
        *(x.data_ptr(), weight_D.data_ptr(), y.data_ptr(), x.numel() // dim, dim, eps, torch.get_num_threads())
    )
    return y
