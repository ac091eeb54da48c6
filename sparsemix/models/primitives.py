"""The smallest parts of a decoder: linear layers, root mean square normalisation, and evaluation mode for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sparsemix.kernels import linear, rms_norm


class Linear(nn.Linear):
    """`nn.Linear`, computed by the fastest matrix product of the machine."""

    def forward(self, input: Tensor) -> Tensor:
        """x W^T + b, (..., out)."""
        return linear(input, self.weight, self.bias)


class RMSNorm(nn.Module):
    """y = x / sqrt(mean(x^2) + eps) * weight over the last axis, computed in at least float32.

    Source: Zhang and Sennrich, 2019 (arXiv 1910.07467), equation 4, with eps inside the root.
    """

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """The same shape and dtype as x."""
        return rms_norm(x, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, eps={self.eps}"


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block; afterwards each submodule has the mode it had."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
