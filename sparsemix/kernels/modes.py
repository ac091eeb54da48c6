"""In which precision to compute, and when autograd, autocast and the compiler need not be asked."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """float32, or float64 where `dtype` is: the precision of routers, norms, rotary angles and losses."""
    return torch.promote_types(dtype, torch.float32)


def nobody_differentiates(x: Tensor) -> bool:
    """Whether x is on a CPU, and neither autograd nor autocast nor the compiler wants to see what becomes of it."""
    eager = not torch.is_grad_enabled() and not torch.compiler.is_compiling()
    return eager and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
