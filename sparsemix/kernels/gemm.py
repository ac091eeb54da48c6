"""Matrix products on the CPU, by the faster of the two libraries that PyTorch brings along."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from torch import Tensor

SMALL = 2**21
"""Multiply-adds below which oneDNN's preparations eat up what it gains; twice as many if a is transposed."""
NARROW = 128
"""Columns of b below which it does not pay to copy a transposed a, as oneDNN needs it."""


def product(a_MK: Tensor, b_KN: Tensor) -> Tensor:
    """a @ b; either may be a transposed view."""
    if onednn_pays(a_MK, b_KN):
        return torch.ops.mkldnn._linear_pointwise(a_MK, b_KN.T, None, "none", [], "")
    return a_MK @ b_KN


def write_product(out_MN: Tensor, a_MK: Tensor, b_KN: Tensor) -> None:
    """out = a @ b."""
    if onednn_pays(a_MK, b_KN):
        out_MN.copy_(product(a_MK, b_KN))
    else:
        torch.mm(a_MK, b_KN, out=out_MN)


def add_product(total_MN: Tensor, a_MK: Tensor, b_KN: Tensor, first: bool) -> None:
    """total += a @ b, or = for the first, whose old contents are fresh memory. The total may be of a wider type."""
    if total_MN.dtype == a_MK.dtype and not onednn_pays(a_MK, b_KN):
        total_MN.addmm_(a_MK, b_KN, beta=0 if first else 1)
    elif first:
        total_MN.copy_(product(a_MK, b_KN))
    else:
        total_MN += product(a_MK, b_KN)


def round_up(rows: int, w_FD: Tensor) -> int:
    """How many rows to multiply with w instead of so many: oneDNN prepares for each number anew, so a few must do."""
    if not _takes(w_FD) or rows * w_FD.numel() < SMALL:
        return rows
    multiple = 32 if rows >= 512 else 8
    return -(-rows // multiple) * multiple


def onednn_pays(a_MK: Tensor, b_KN: Tensor) -> bool:
    """Whether a @ b is faster by oneDNN."""
    if not _takes(a_MK):
        return False
    multiply_adds = a_MK.shape[0] * a_MK.shape[1] * b_KN.shape[1]
    if len(a_MK) == 1:  # as fast as memory is read, which oneDNN does with all threads
        return multiply_adds >= SMALL // 4
    if a_MK.stride(1) == 1:
        return multiply_adds >= SMALL
    return multiply_adds >= 2 * SMALL and b_KN.shape[1] >= NARROW


def _takes(tensor: Tensor) -> bool:
    if torch.compiler.is_compiling():  # the compiler has ways of its own
        return False
    float32 = tensor.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return float32 and tensor.device.type == "cpu" and onednn_is_faster()


@functools.cache
def onednn_is_faster() -> bool:
    """Whether large float32 products go to oneDNN rather than to the BLAS behind `torch.mm`.

    On CPUs that are not Intel's, MKL does not use AVX-512; oneDNN does, and is 2.3 times as fast on a Zen 5. Elsewhere
    they are close. A rule rather than a race, so that results are the same from run to run.
    """
    return (
        torch.backends.mkl.is_available()
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and not _made_by_intel()
    )


def _made_by_intel() -> bool:
    """Also where there is no telling: `torch.mm` is right everywhere."""
    info = Path("/proc/cpuinfo")
    return not info.exists() or "GenuineIntel" in info.read_text(encoding="utf-8", errors="replace")
