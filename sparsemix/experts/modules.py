"""Any `nn.Module`s as experts, different ones too: a loop over the modules under autograd."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sparsemix.checks import check
from sparsemix.config import config
from sparsemix.kernels import combine
from sparsemix.routing import Dispatch, Routing


@config
class ModuleExpertsConfig:
    """E modules made by a function. For use from Python: a function does not go into a JSON file."""

    type: Literal["modules"] = "modules"
    make: Callable[[int], Any]
    """Called with the width of x once an expert; must return an nn.Module from (R, D) to (R, D)."""

    def build(self, dim: int, num_experts: int) -> ModuleExperts:
        """E experts over x of width `dim`."""
        return ModuleExperts([self.make(dim) for _ in range(num_experts)])


class ModuleExperts(nn.Module):
    """Module e maps the rows of expert e, (R, D), to as many rows; its output is weighted and combined."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        check(len(modules) > 0, "modules", "must name at least one expert", "none")
        self.experts, self.num_experts = nn.ModuleList(modules), len(modules)

    def forward(self, x_TD: Tensor, dispatch: Dispatch) -> tuple[Tensor, tuple[Routing, ...]]:
        """Weighted sums (T, D), and no inner routings."""
        edges = dispatch.bounds.tolist()
        x_ND = x_TD[dispatch.token_N]
        outputs = [
            module(x_ND[start:end]) if start < end else _no_rows(module, x_ND)
            for module, (start, end) in zip(self.experts, pairwise(edges))
        ]
        outputs = [*outputs, torch.zeros_like(x_ND[edges[-1] :])]  # dead rows
        y_ND = torch.cat([output.to(x_TD.dtype) for output in outputs])
        return combine(y_ND * dispatch.weight_N[:, None].to(y_ND.dtype), dispatch, len(x_TD)), ()


def _no_rows(module: nn.Module, x_ND: Tensor) -> Tensor:
    """No output rows, yet every parameter in the graph with gradient 0: not every module takes an empty batch."""
    zero = sum((parameter.flatten()[:0].sum() for parameter in module.parameters()), x_ND.new_zeros(()))
    return x_ND[:0] + zero
