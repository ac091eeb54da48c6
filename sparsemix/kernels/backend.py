"""Which implementation computes the grouped products: three primitives each, chosen by what the tensors allow."""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

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


class Choice(NamedTuple):
    """A back end, and why it was chosen."""

    name: str
    reason: str
    ops: Backend | None
    """Its primitives; None for the reference, which is a loop under autograd."""


def choose_backend(name: BackendName, x_TD: Tensor, up_EGD: Tensor, down_EDF: Tensor) -> Choice:
    """The back end of that name; `auto` is `native` on a GPU where it can serve the tensors, and `cpu` elsewhere.

    Raises:
        ValueError: `native` was asked for and cannot serve the type or the sizes of the tensors.
    """
    refusal = native_refuses(x_TD, up_EGD, down_EDF)
    asked = "the config asks for it"
    match name:
        case "reference":
            return Choice("reference", asked, None)
        case "cpu":
            return Choice("cpu", asked, cpu)
        case "native":
            check(not refusal, "backend", "native must be able to serve the tensors", refusal, "use backend='auto'")
            return Choice("native", asked, native)
        case "auto":
            if not x_TD.is_cuda:
                return Choice("cpu", f"the device is {x_TD.device}", cpu)
            if refusal:
                return Choice("cpu", f"grouped_mm refuses {refusal}", cpu)
            return Choice("native", "grouped_mm can serve the sizes and the type", native)


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
