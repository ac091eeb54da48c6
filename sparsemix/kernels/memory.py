"""Large fresh tensors on the CPU. Where each page faults in on its own, that takes longer than filling it."""

from __future__ import annotations

import ctypes
import functools
import mmap
import sys
from collections.abc import Callable

import torch
from torch import Tensor

LARGE = 8 * 2**20
"""Bytes from which it is worth asking."""


def fresh(like: Tensor, *shape: int) -> Tensor:
    """An uninitialised tensor with the dtype and device of another; in huge pages where Linux offers them."""
    tensor = torch.empty(shape, dtype=like.dtype, device=like.device)
    if tensor.device.type == "cpu" and tensor.nbytes >= LARGE:
        start = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        size = (tensor.data_ptr() + tensor.nbytes - start) // mmap.PAGESIZE * mmap.PAGESIZE
        _advise()(start, size)
    return tensor


@functools.cache
def _advise() -> Callable[[int, int], object]:
    """madvise(start, size, MADV_HUGEPAGE): a hint, and as such it may fail without harm."""
    if sys.platform != "linux" or not hasattr(mmap, "MADV_HUGEPAGE"):
        return lambda start, size: None
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return lambda start, size: madvise(start, size, mmap.MADV_HUGEPAGE)
