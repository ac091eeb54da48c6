"""LSTMs as experts: each reads whole sequences."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from sparsemix.config import config
from sparsemix.experts.modules import ModuleExperts


@config
class LSTMExpertsConfig:
    """y_s = W h_s with (h_s, c_s) = LSTM(x_s, h_{s-1}, c_{s-1}): an item is a sequence (S, D) from a zero state."""

    type: Literal["lstm"] = "lstm"
    hidden: int = Field(ge=1)
    """Width of h and c of one expert."""

    def build(self, dim: int, num_experts: int, out_dim: int | None = None) -> ModuleExperts:
        """E experts over sequences of width `dim`; y has that width too, or `out_dim`."""
        out_dim = dim if out_dim is None else out_dim
        return ModuleExperts([LSTM(dim, self.hidden, out_dim) for _ in range(num_experts)], (None, out_dim))


class LSTM(nn.Module):
    """One LSTM layer and a projection of its states."""

    def __init__(self, dim: int, hidden: int, out_dim: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(dim, hidden, batch_first=True)
        self.output = nn.Linear(hidden, out_dim, bias=False)

    def forward(self, x_RSD: Tensor) -> Tensor:
        """(R, S, out) of R sequences."""
        return self.output(self.lstm(x_RSD)[0])
