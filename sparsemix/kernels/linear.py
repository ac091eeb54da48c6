"""y = x W^T + b on whichever matrix product is the fastest, with autograd: what `nn.Linear` does, less slowly."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsemix.kernels import cpp
from sparsemix.kernels.gemm import onednn_pays, product
from sparsemix.kernels.modes import nobody_differentiates


def linear(x: Tensor, w_FD: Tensor, bias_F: Tensor | None = None) -> Tensor:
    """x W^T + b over the last axis of x (..., D); (..., F). `F.linear` wherever that is as fast."""
    x_TD = x.reshape(-1, x.shape[-1])
    if len(x_TD) == 1 and nobody_differentiates(x) and cpp.takes_one_row(x_TD, w_FD, bias_F):
        return cpp.one_row(x_TD, w_FD, bias_F).view(*x.shape[:-1], len(w_FD))
    if x.dtype != w_FD.dtype or not onednn_pays(x_TD, w_FD.T):
        return F.linear(x, w_FD, bias_F)
    y = _Linear.apply(x_TD, w_FD).view(*x.shape[:-1], len(w_FD))
    return y if bias_F is None else y + bias_F


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, w_FD: Tensor) -> Tensor:
        ctx.save_for_backward(x_TD, w_FD)
        return product(x_TD, w_FD.T)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """dx = dy W and dW = dy^T x, as linear functions once more, so that they can be differentiated in turn."""
        (x_TD, w_FD), (dy_TF,) = ctx.saved_tensors, grads
        needs_x, needs_w = ctx.needs_input_grad
        return linear(dy_TF, w_FD.T) if needs_x else None, linear(dy_TF.T, x_TD.T) if needs_w else None
