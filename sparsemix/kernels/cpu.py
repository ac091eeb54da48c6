"""Grouped products on the CPU: one GEMM an expert, written in place, nothing for an expert without rows."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor


def grouped_matmul(x_RD: Tensor, w_EFD: Tensor, bounds: Tensor) -> Tensor:
    """y_r = x_r W_e^T for the rows r of expert e; (R, F)."""
    y_RF = x_RD.new_empty(x_RD.shape[0], w_EFD.shape[1])
    for e, rows in _groups(bounds):
        torch.mm(x_RD[rows], w_EFD[e].T, out=y_RF[rows])
    return y_RF


def grouped_matmul_input_grad(dy_RF: Tensor, w_EFD: Tensor, bounds: Tensor) -> Tensor:
    """dx_r = dy_r W_e for the rows r of expert e; (R, D)."""
    dx_RD = dy_RF.new_empty(dy_RF.shape[0], w_EFD.shape[2])
    for e, rows in _groups(bounds):
        torch.mm(dy_RF[rows], w_EFD[e], out=dx_RD[rows])
    return dx_RD


def grouped_matmul_weight_grad(dy_RF: Tensor, x_RD: Tensor, bounds: Tensor) -> Tensor:
    """dW_e = sum over the rows r of expert e of dy_r x_r^T; (E, F, D), zero for an expert without rows."""
    dw_EFD = x_RD.new_empty(len(bounds) - 1, dy_RF.shape[1], x_RD.shape[1])
    empty = set(range(len(dw_EFD)))
    for e, rows in _groups(bounds):
        torch.mm(dy_RF[rows].T, x_RD[rows], out=dw_EFD[e])
        empty.remove(e)
    for e in empty:
        dw_EFD[e].zero_()
    return dw_EFD


def _groups(bounds: Tensor) -> Iterator[tuple[int, slice]]:
    edges = bounds.tolist()
    for e, (start, end) in enumerate(pairwise(edges)):
        if start < end:
            yield e, slice(start, end)
