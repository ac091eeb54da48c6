"""Experts of different kinds and widths side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from itertools import accumulate, pairwise
from typing import Annotated, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from sparsemix.checks import check
from sparsemix.config import config
from sparsemix.experts.base import Experts, OneTokenExperts, combine_live, live_rows
from sparsemix.experts.glu import ClampedGLUExpertsConfig, GLUExpertsConfig
from sparsemix.experts.mlp import MLPExpertsConfig
from sparsemix.experts.modules import ModuleExpertsConfig
from sparsemix.experts.simple import ConstantExpertsConfig, CopyExpertsConfig, ZeroExpertsConfig
from sparsemix.kernels import nobody_differentiates
from sparsemix.routing import Dispatch, Routing

PartConfig = Annotated[
    GLUExpertsConfig
    | ClampedGLUExpertsConfig
    | MLPExpertsConfig
    | ZeroExpertsConfig
    | CopyExpertsConfig
    | ConstantExpertsConfig
    | ModuleExpertsConfig,
    Field(discriminator="type"),
]


@config
class Part:
    """Some experts of one kind."""

    num_experts: int = Field(1, ge=1)
    """How many of them."""
    experts: PartConfig
    """What each computes."""


@config
class ConcatExpertsConfig:
    """Experts of different kinds or widths: the first part has the first numbers, and so on.

    Eight experts whose widths are in arithmetic progression (HMoE, 2408.10681) are eight parts of one each:
    `parts=tuple(Part(experts=GLUExpertsConfig(hidden=h)) for h in range(2304, 5889, 512))`.
    """

    type: Literal["concat"] = "concat"
    parts: tuple[Part, ...] = Field(min_length=1)
    """Together as many experts as the layer has."""

    def build(self, dim: int, num_experts: int, out_dim: int | None = None) -> ConcatExperts:
        """The experts over x of width `dim`; y has that width too, or `out_dim`.

        Raises:
            ValueError: the parts have not `num_experts` experts together.
        """
        total = sum(part.num_experts for part in self.parts)
        remedy = f"set num_experts={total}, or change the parts"
        check(total == num_experts, "parts", f"must have num_experts={num_experts} together", total, remedy)
        return ConcatExperts([part.experts.build(dim, part.num_experts, out_dim) for part in self.parts])


class ConcatExperts(nn.Module):
    """Parts that are experts themselves; `bounds[p]` is the number of the first expert of part p."""

    def __init__(self, parts: Sequence[Experts]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(cast("Sequence[nn.Module]", parts))
        self.bounds = tuple(accumulate((part.num_experts for part in parts), initial=0))
        self.num_experts = self.bounds[-1]
        self._all_take_one_token = all(isinstance(part, OneTokenExperts) for part in parts)

    def forward(self, x: Tensor, dispatch: Dispatch) -> tuple[Tensor, tuple[Routing, ...]]:
        """The sum of what the parts give, and the inner routings of all."""
        if x.device.type == "cpu" and not torch.compiler.is_compiling():
            return self._by_rows(x, dispatch)
        return self._by_sums(x, dispatch)

    def one_token(self, x_1D: Tensor, routing: Routing) -> Tensor | None:
        """The weighted sum of one token over the parts it goes to, where nobody wants a gradient; else None.

        Also None if one of these parts must sort, if nothing is live, or with parts that may have routings inside.
        """
        if not (self._all_take_one_token and nobody_differentiates(x_1D)):
            return None
        live = range(len(routing.expert_N)) if routing.live_N is None else routing.live_N.nonzero()[:, 0].tolist()
        experts, ys = routing.expert_N.tolist(), []
        for part, (start, stop) in zip(cast("Iterable[OneTokenExperts]", self.parts), pairwise(self.bounds)):
            edges = [edge for edge in live if start <= experts[edge] < stop]
            if edges:
                own = Routing(routing.token_N[edges], routing.expert_N[edges] - start, routing.weight_N[edges])
                ys.append(part.one_token(x_1D, own))
        return None if not ys or any(y is None for y in ys) else reduce(torch.add, ys)

    def _by_rows(self, x: Tensor, dispatch: Dispatch) -> tuple[Tensor, tuple[Routing, ...]]:
        """Each part gets its live rows only, as tokens of their own: many parts cost no more than their rows do."""
        bounds = dispatch.bounds[list(self.bounds)].tolist()
        ys, inner = [], ()
        for part, rows, experts, (start, end) in zip(
            self.parts, live_rows(x, dispatch, bounds), pairwise(self.bounds), pairwise(bounds)
        ):
            y, routings = part(rows, _rows_alone(dispatch, experts, slice(start, end)))
            ys.append(y)
            inner += routings
        return combine_live(torch.cat(ys), dispatch, len(x)), inner

    def _by_sums(self, x: Tensor, dispatch: Dispatch) -> tuple[Tensor, tuple[Routing, ...]]:
        """Each part goes over all rows, its own first and the others dead: nobody waits for their numbers."""
        ys, inner = [], ()
        for part, (start, stop) in zip(self.parts, pairwise(self.bounds)):
            y, routings = part(x, part_of(dispatch, start, stop))
            ys.append(y)
            inner += routings
        return reduce(torch.add, ys), inner


def part_of(dispatch: Dispatch, start: int, stop: int) -> Dispatch:
    """The experts from `start` to `stop`, exclusive, as a dispatch of their own: of as many rows, their own first.

    The rows go round by as many as lie before; the others are dead. Sizes depend on no value, as in any dispatch.
    """
    num_rows = len(dispatch.token_N)
    first = dispatch.bounds[start]
    row_N = torch.arange(num_rows, device=first.device) + first
    row_N = torch.where(row_N < num_rows, row_N, row_N - num_rows)
    slot_TK = dispatch.slot_TK
    if slot_TK is not None:
        slot_TK = torch.where(slot_TK < first, slot_TK + num_rows, slot_TK) - first
    return Dispatch(
        token_N=dispatch.token_N[row_N],
        edge_N=dispatch.edge_N[row_N],
        weight_N=dispatch.weight_N[row_N],
        bounds=dispatch.bounds[start : stop + 1] - first,
        slot_TK=slot_TK,
    )


def _rows_alone(dispatch: Dispatch, experts: tuple[int, int], rows: slice) -> Dispatch:
    """These rows of a range of experts, each a token of its own."""
    row_N = torch.arange(rows.stop - rows.start, device=dispatch.token_N.device)
    return Dispatch(
        token_N=row_N,
        edge_N=row_N,
        weight_N=dispatch.weight_N[rows],
        bounds=dispatch.bounds[experts[0] : experts[1] + 1] - rows.start,
        slot_TK=row_N[:, None],
        all_live=True,
    )
