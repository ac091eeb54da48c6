"""How a module of transformers stores its experts, as views that the kernels read where they lie."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sparsemix.interop.transformers.gates import check_served
from sparsemix.kernels import Activation, ExpertWeights

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def weights_of(experts: Any, activation: Activation) -> ExpertWeights:
    """Views of the parameters of an experts module; nothing is copied.

    Args:
        experts: a module under transformers' `use_experts_implementation`.
        activation: its own.

    Raises:
        ValueError: it stores what the kernels cannot read; names its class and why.
    """
    up = "gate_up_proj" if experts.has_gate else "up_proj"
    weights = ExpertWeights(
        _matrices(experts, up),
        _matrices(experts, "down_proj"),
        _tensor(experts, f"{up}_bias", axes=2) if experts.has_bias else None,
        _tensor(experts, "down_proj_bias", axes=2) if experts.has_bias else None,
    )
    wide, fits = weights.up_EGD.shape[1], activation.width * weights.down_EDF.shape[2]
    rule = f"{up} must be {activation.width} times as wide as what down_proj reads"
    check_served(experts, wide == fits, rule, f"{wide} and {fits // activation.width}")
    return weights


def _matrices(experts: Any, name: str) -> Tensor:
    """(E, out, in), whichever way it is stored."""
    stored = _tensor(experts, name, axes=3)
    return stored.mT if experts.is_transposed else stored


def _tensor(experts: Any, name: str, axes: int) -> Tensor:
    """One whose numbers lie where it says: quantised and distributed ones are subclasses, and read past that."""
    found: Any = getattr(experts, name, None)
    plain = type(found) in (Tensor, nn.Parameter)
    check_served(experts, plain, f"{name} must be an ordinary tensor of all experts", type(found).__name__)
    check_served(experts, found.ndim == axes, f"{name} must have {axes} axes", tuple(found.shape))
    check_served(experts, found.dtype in DTYPES, f"{name} must be of an ordinary floating-point type", found.dtype)
    return found
