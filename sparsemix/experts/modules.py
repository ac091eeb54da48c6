"""Any `nn.Module`s as experts, different ones too, convolutional and recurrent ones, and whole mixtures: a loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sparsemix.checks import check
from sparsemix.config import config
from sparsemix.experts.base import combine_live, live_rows
from sparsemix.routing import Dispatch, Routing

Shape = tuple[int | None, ...]


@config
class ModuleExpertsConfig:
    """E modules made by a function. For use from Python: a function does not go into a JSON file."""

    type: Literal["modules"] = "modules"
    make: Callable[[int], Any]
    """Called with the width of x once an expert; must return an nn.Module from (R, D) to (R, D), or (R, out_dim)."""

    def build(self, dim: int, num_experts: int, out_dim: int | None = None) -> ModuleExperts:
        """E experts over x of width `dim`; y has that width too, or `out_dim`."""
        out_shape = None if out_dim is None else (out_dim,)
        return ModuleExperts([self.make(dim) for _ in range(num_experts)], out_shape)


class ModuleExperts(nn.Module):
    """Module e maps the rows of expert e, (R, *item), to (R, *out); its output is weighted and combined.

    A module may be a mixture: one that returns `(y, routing)`, as `MoE` does. Its routing is among the inner ones.
    A module without rows is not called, since many do not take an empty batch; but a mixture with a `router` is, so
    that there is one inner routing for each, batch after batch.
    """

    def __init__(self, modules: Sequence[nn.Module], out_shape: Shape | None = None) -> None:
        """out_shape: of what a module makes of one item, where it differs from the item's; None for an axis that
        keeps its size. E.g. (8, None) for convolutions from (3, S) to (8, S)."""
        super().__init__()
        check(len(modules) > 0, "modules", "must name at least one expert", "none")
        self.experts, self.num_experts, self.out_shape = nn.ModuleList(modules), len(modules), out_shape

    def forward(self, x: Tensor, dispatch: Dispatch) -> tuple[Tensor, tuple[Routing, ...]]:
        """Weighted sums (T, *out), and the routings of mixtures among the modules.

        Raises:
            ValueError: a module's output is not of the shape that was said.
            TypeError: it is neither a tensor nor a tensor and a routing.
        """
        out_shape = self._out_shape(x)
        outputs, inner = [], []
        for module, rows in zip(self.experts, live_rows(x, dispatch, dispatch.bounds.tolist())):
            if not len(rows) and not hasattr(module, "router"):
                outputs.append(_no_rows(module, rows.new_zeros(0, *out_shape)))
                continue
            output, routings = _called(module, rows)
            expected = (len(rows), *out_shape)
            remedy = "pass out_shape to ModuleExperts"
            check(output.shape == expected, "out_shape", f"rows must become {expected}", tuple(output.shape), remedy)
            outputs.append(output)
            inner.extend(routings)
        y = torch.cat([output.to(x.dtype) for output in outputs])
        weight_R = dispatch.weight_N[: len(y)].to(y.dtype)
        return combine_live(y * weight_R.view(-1, *[1] * len(out_shape)), dispatch, len(x)), tuple(inner)

    def _out_shape(self, x: Tensor) -> tuple[int, ...]:
        item = x.shape[1:]
        if self.out_shape is None:
            return tuple(item)
        rule = f"items must have {len(self.out_shape)} axes, as out_shape={self.out_shape}"
        fits = len(self.out_shape) == len(item) or None not in self.out_shape
        check(fits, "x", rule, f"shape {tuple(x.shape)}", "set item_dims of the layer")
        return tuple(item[axis] if size is None else size for axis, size in enumerate(self.out_shape))


def _called(module: nn.Module, rows: Tensor) -> tuple[Tensor, tuple[Routing, ...]]:
    match module(rows):
        case Tensor() as output:
            return output, ()
        case (Tensor() as output, Routing() as routing):
            return output, (routing,)
        case other:
            raise TypeError(f"modules: must return y or (y, routing), got {type(other).__name__}; wrap the module")


def _no_rows(module: nn.Module, nothing: Tensor) -> Tensor:
    """No output rows, yet every parameter in the graph with gradient 0."""
    return nothing + sum((parameter.flatten()[:0].sum() for parameter in module.parameters()), nothing.new_zeros(()))
