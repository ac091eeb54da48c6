"""Grouped products by `torch.nn.functional.grouped_mm`: one call, on a GPU without host synchronisation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsemix.kernels.grouped import Grouped
from sparsemix.kernels.weights import ExpertWeights


class NativeProducts:
    """As `Products` says."""

    def matmul(self, x_ND: Tensor, w_EFD: Tensor, bounds: Tensor) -> Tensor:
        return F.grouped_mm(x_ND, w_EFD.transpose(1, 2), offs=bounds[1:])

    def input_grad(self, dy_NF: Tensor, w_EFD: Tensor, bounds: Tensor) -> Tensor:
        return F.grouped_mm(dy_NF, w_EFD, offs=bounds[1:])

    def weight_grad(self, dy_NF: Tensor, x_ND: Tensor, bounds: Tensor) -> Tensor:
        return F.grouped_mm(dy_NF.T, x_ND, offs=bounds[1:])


BACKEND = Grouped(NativeProducts())


def refuses(x_TD: Tensor, weights: ExpertWeights) -> str:
    """Why `F.grouped_mm` cannot serve these tensors; empty if it can."""
    if not hasattr(F, "grouped_mm"):
        return f"torch {torch.__version__} without grouped_mm"
    if x_TD.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"dtype {x_TD.dtype}"
    sizes = (*weights.up_EGD.shape[1:], *weights.down_EDF.shape[1:])
    if any(size * x_TD.element_size() % 16 for size in sizes):
        return f"rows of {sizes} numbers that are not multiples of 16 bytes"
    return ""
