"""Experts on the CPU in C++, compiled where they are used."""

from sparsemix.kernels.cpp.backend import backward, forward, refuses
from sparsemix.kernels.cpp.decode import one_row, one_token, rms_norm, takes_one_row, takes_one_token

__all__ = [
    "backward",
    "forward",
    "one_row",
    "one_token",
    "refuses",
    "rms_norm",
    "takes_one_row",
    "takes_one_token",
]
