"""One token by compiled code: y = W x with one row, and the experts of one token, at the speed of memory."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from sparsemix.kernels.activations import Activation
from sparsemix.kernels.cpp.backend import refuses
from sparsemix.kernels.cpp.call import Call
from sparsemix.kernels.cpp.library import library
from sparsemix.kernels.weights import ExpertWeights


def takes_one_row(w_FD: Tensor, bias_F: Tensor | None) -> bool:
    """Whether it can serve these: float32 on a CPU, rows contiguous."""
    tensors = (w_FD,) if bias_F is None else (w_FD, bias_F)
    fit = all(tensor.dtype == torch.float32 and tensor.device.type == "cpu" for tensor in tensors)
    return fit and w_FD.stride(1) == 1 and library().functions is not None


def one_row(x_1D: Tensor, w_FD: Tensor, bias_F: Tensor | None = None) -> Tensor:
    """x W^T + b, (1, F), without autograd."""
    functions, x_1D = library().functions, x_1D.contiguous()
    assert functions is not None
    y_1F = x_1D.new_empty(1, len(w_FD))
    bias_F = None if bias_F is None else bias_F.contiguous()
    functions.sparsemix_one_row(
        w_FD.data_ptr(), w_FD.stride(0), None if bias_F is None else bias_F.data_ptr(), x_1D.data_ptr(),
        y_1F.data_ptr(), *w_FD.shape, torch.get_num_threads(),
    )  # fmt: skip
    return y_1F


def takes_one_token(x_1D: Tensor, weights: ExpertWeights) -> bool:
    """Whether it can serve these."""
    return weights.up_EGD.stride(2) == weights.down_EDF.stride(2) == 1 and not refuses(x_1D, weights)


def one_token(
    x_1D: Tensor, expert_K: Tensor, weight_K: Tensor, weights: ExpertWeights, activation: Activation
) -> Tensor:
    """The weighted sum over K experts, (1, D), without autograd."""
    functions, call = library().functions, Call(x_1D, weights, activation)
    assert functions is not None
    y_1D, expert_K = x_1D.new_empty(x_1D.shape), expert_K.contiguous()
    call.k = len(expert_K)
    call.point(weight=weight_K.float(), y=y_1D)
    functions.sparsemix_one_token(ctypes.byref(call), expert_K.data_ptr())
    return y_1D
