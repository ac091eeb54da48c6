"""What most routers begin with: logits = x W^T."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparsemix.checks import check_dim
from sparsemix.routers.base import WideModule, wide_dtype
from sparsemix.routers.score import linear_scores


class LinearRouter(WideModule):
    """Holds W (E, D), small and normal at first, and perhaps a bias; in float32 also in a narrower model.

    A W of zeros would send every token to the same experts, all logits being tied.
    """

    def __init__(self, dim: int, num_experts: int, *, bias: bool = False) -> None:
        super().__init__()
        self.num_experts = num_experts
        dtype = wide_dtype()  # also where the rest of the model is built in bfloat16
        self.weight_ED = nn.Parameter(torch.empty(num_experts, dim, dtype=dtype))
        self.bias_E = nn.Parameter(torch.empty(num_experts, dtype=dtype)) if bias else None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Small normal logits, no bias."""
        nn.init.normal_(self.weight_ED, std=0.02)
        if self.bias_E is not None:
            nn.init.zeros_(self.bias_E)

    def logits(self, x_TD: Tensor) -> Tensor:
        """(T, E), in at least float32."""
        check_dim("x", x_TD, -1, self.weight_ED.shape[1])
        return linear_scores(x_TD, self.weight_ED, self.bias_E)
