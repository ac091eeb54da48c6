"""Balance without a loss: how a selection bias follows the load."""

from __future__ import annotations

import torch
from torch import Tensor


def bias_step(bias_E: Tensor, load_E: Tensor, rate: float) -> Tensor:
    """b + rate sign(mean load - load): an overloaded expert's selection bias falls, an idle one's rises.

    Source: auxiliary-loss-free balancing (2408.15664), algorithm 1. Call it once an optimiser step.
    """
    below_mean_E = torch.sign(load_E.sum() - len(load_E) * load_E)  # exact in integers, however large the batch
    return bias_E + rate * below_mean_E.to(bias_E.dtype)


def proportional_bias_step(bias_E: Tensor, load_E: Tensor, rate: float) -> Tensor:
    """b + rate (mean load - load) / mean load: the further an expert is off, the larger its step.

    Source: 2408.15664, section 4.3. Differs: the violation is relative to the mean, so that `rate` does not depend on
    the batch size. No step where nobody chose anything.
    """
    load_E = load_E.to(bias_E.dtype)
    return bias_E + rate * torch.where(load_E.sum() > 0, 1 - load_E / load_E.mean().clamp(min=1e-20), 0)
