"""Root mean square normalisation: PyTorch's, and without autograd a faster one on a CPU."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from sparsemix.kernels import cpp
from sparsemix.kernels.modes import at_least_float32, nobody_differentiates


def rms_norm(x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis of x (..., D), computed in at least float32; like x."""
    if nobody_differentiates(x) and not cpp.refuses(x, weight_D):
        return cpp.rms_norm(x, weight_D, eps)
    wide = at_least_float32(x.dtype)
    return F.rms_norm(x.to(wide), weight_D.shape, weight_D.to(wide), eps).to(x.dtype)
