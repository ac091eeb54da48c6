"""The C library's allocator: what is freed is kept for the next step, rather than given back and faulted in anew."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGE = 2**30
"""Bytes from which a block of memory still goes back to the system as soon as it is freed."""


def keep_freed_memory() -> bool:
    """Keep freed blocks of up to 1 GiB: a training step frees and asks for the same sizes again and again.

    A setting of the whole process, and so for programs, not for libraries: the command line calls it, and a script of
    yours may call it first of all. Steps on a CPU are then up to a third faster.

    Returns:
        Whether it took effect: on Linux with glibc.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGE)) and bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
