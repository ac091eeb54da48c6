"""The expert MLP in Triton: one kernel a product, for NVIDIA from compute capability 8.0 on and for ROCm."""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from sparsemix.kernels.weights import ExpertWeights

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def refuses(x_TD: Tensor, weights: ExpertWeights) -> str:
    """Why `sparsemix.kernels.triton.backend` cannot serve these tensors; empty if it can.

    Imports Triton only where it is installed and about to be used; on a CPU its interpreter has to be on, which is
    for tests.
    """
    if importlib.util.find_spec("triton") is None:
        return "an installation without triton"
    if x_TD.dtype not in DTYPES:
        return f"dtype {x_TD.dtype}"
    for tensor in weights:
        if tensor is not None and tensor.dtype != x_TD.dtype:
            return f"weights of {tensor.dtype} with tokens of {x_TD.dtype}"
    return _place_refuses(x_TD.device, x_TD.dtype)


def _place_refuses(device: torch.device, dtype: torch.dtype) -> str:
    from sparsemix.kernels.triton.tuning import INTERPRETED

    if INTERPRETED:  # it multiplies the bits of bfloat16 as integers
        return "dtype torch.bfloat16 in Triton's interpreter" if dtype == torch.bfloat16 else ""
    if device.type != "cuda":
        return f"device {device}"
    if torch.version.hip is None and torch.cuda.get_device_capability(device) < (8, 0):
        return "compute capability {}.{}, which is below 8.0".format(*torch.cuda.get_device_capability(device))
    return ""
