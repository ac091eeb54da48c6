"""Grouped products by `torch.nn.functional.grouped_mm`: one call, on a GPU without host synchronisation."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def grouped_matmul(x_RD: Tensor, w_EFD: Tensor, bounds: Tensor) -> Tensor:
    """y_r = x_r W_e^T for the rows r of expert e; (R, F)."""
    return F.grouped_mm(x_RD, w_EFD.transpose(1, 2), offs=bounds[1:])


def grouped_matmul_input_grad(dy_RF: Tensor, w_EFD: Tensor, bounds: Tensor) -> Tensor:
    """dx_r = dy_r W_e for the rows r of expert e; (R, D)."""
    return F.grouped_mm(dy_RF, w_EFD, offs=bounds[1:])


def grouped_matmul_weight_grad(dy_RF: Tensor, x_RD: Tensor, bounds: Tensor) -> Tensor:
    """dW_e = sum over the rows r of expert e of dy_r x_r^T; (E, F, D), zero for an expert without rows."""
    return F.grouped_mm(dy_RF.T, x_RD, offs=bounds[1:])
