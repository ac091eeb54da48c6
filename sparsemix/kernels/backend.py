"""Which implementation computes the grouped products: three primitives each, chosen by what the tensors allow."""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor

from sparsemix.checks import check
from sparsemix.kernels import cpu, native

BackendName = Literal["auto", "reference", "cpu", "native"]


class Backend(Protocol):
    """The grouped products, over rows sorted by expert."""

    def grouped_matmul(self, x_RD: Tensor, w_EFD: Tensor, bounds: Tensor) -> Tensor: ...
    def grouped_matmul_input_grad(self, dy_RF: Tensor, w_EFD: Tensor, bounds: Tensor) -> Tensor: ...
    def grouped_matmul_weight_grad(self, dy_RF: Tensor, x_RD: Tensor, bounds: Tensor) -> Tensor: ...


def choose_backend(name: BackendName, x_TD: Tensor, up_EGD: Tensor, down_EDF: Tensor) -> Backend:
    """The back end of that name; `auto` is `native` on a GPU where it can serve the tensors, and `cpu` elsewhere.

    Raises:
        ValueError: `native` was asked for and cannot serve the type or the sizes of the tensors.
    """
    reason = native_refuses(x_TD, up_EGD, down_EDF)
    if name == "native":
        check(reason == "", "backend", "native must be able to serve the tensors", reason, "use backend='auto'")
        return native
    if name == "auto" and x_TD.is_cuda and not reason:
        return native
    return cpu


def native_refuses(x_TD: Tensor, up_EGD: Tensor, down_EDF: Tensor) -> str:
    """Why `F.grouped_mm` cannot serve these tensors; empty if it can."""
    if not hasattr(torch.nn.functional, "grouped_mm"):
        return f"torch {torch.__version__} without grouped_mm"
    if x_TD.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"dtype {x_TD.dtype}"
    sizes = (up_EGD.shape[1], up_EGD.shape[2], down_EDF.shape[2])
    if any(size * x_TD.element_size() % 16 for size in sizes):
        return f"rows of {sizes} numbers that are not multiples of 16 bytes"
    return ""
