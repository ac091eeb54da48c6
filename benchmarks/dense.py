"""What a mixture has to beat: a dense FFN of as many FLOPs."""

from __future__ import annotations

import torch.nn.functional as F
from ours import Contestant
from torch import Tensor, nn


class DenseFFN(nn.Module):
    """A SwiGLU as everybody writes it."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(dim, hidden, bias=False), nn.Linear(dim, hidden, bias=False)
        self.down = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


def dense(dim: int, hidden: int) -> Contestant:
    """The dense FFN."""
    ffn = DenseFFN(dim, hidden)
    return Contestant(ffn, ffn)
