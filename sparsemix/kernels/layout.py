"""How the CPU lays out the rows of a dispatch: each expert's rounded up, cut into blocks that are computed together."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from sparsemix.kernels.combine import gather_sum
from sparsemix.kernels.gemm import round_up
from sparsemix.routing import Dispatch

ROWS = 512
"""Rows of a block, at most: few enough for what is between the products to stay in the cache."""


class Part(NamedTuple):
    """Rows of one expert, counted from the start of their block."""

    expert: int
    rows: slice
    first: bool
    """Whether they are the first of the expert: a sum over its rows begins with them."""


class Block(NamedTuple):
    """Consecutive rows: a piece of one large expert, or several small experts together."""

    rows: slice
    parts: tuple[Part, ...]


class Layout(NamedTuple):
    """The live rows of a dispatch, rows that fill up, and one last row for the dead; the latter have weight 0."""

    token_R: Tensor
    weight_R: Tensor
    edges: tuple[int, ...]
    """Expert e owns rows edges[e]:edges[e + 1]."""
    row_N: Tensor | None
    """Where each row of the dispatch lies. None: where it was, no row fills up and none is dead."""
    dispatch: Dispatch

    def blocks(self) -> Iterator[Block]:
        """All rows, in order."""
        parts: list[Part] = []
        start = 0
        for expert, (first, last) in enumerate(pairwise(self.edges)):
            for begin in range(first, last, ROWS):
                end = min(begin + ROWS, last)
                if end - start > ROWS:
                    yield Block(slice(start, begin), tuple(parts))
                    parts, start = [], begin
                parts.append(Part(expert, slice(begin - start, end - start), begin == first))
        if parts:
            yield Block(slice(start, self.edges[-1]), tuple(parts))

    def combine(self, y_RD: Tensor, num_tokens: int) -> Tensor:
        """Each token's sum; overwrites the last row, if it is that for the dead."""
        if self.row_N is None:
            return gather_sum(y_RD, self.dispatch, num_tokens)
        y_RD[-1].zero_()
        if self.dispatch.slot_TK is None:
            return gather_sum(y_RD.index_select(0, self.row_N), self.dispatch, num_tokens)
        slot_TK = self.row_N[self.dispatch.slot_TK]
        return gather_sum(y_RD, self.dispatch._replace(slot_TK=slot_TK), num_tokens)

    def to_dispatch(self, value_R: Tensor) -> Tensor:
        """A number a row in the order of the dispatch, 0 for dead rows; overwrites the last like `combine`."""
        if self.row_N is None:
            return value_R
        value_R[-1] = 0
        return value_R.index_select(0, self.row_N)


def lay_out(dispatch: Dispatch, up_EGD: Tensor) -> Layout:
    """Round up as the products with these matrices like it."""
    bounds, num_rows = dispatch.bounds.tolist(), len(dispatch.token_N)
    counts = [end - start for start, end in pairwise(bounds)]
    edges = tuple(accumulate((round_up(count, up_EGD[0]) for count in counts), initial=0))
    if edges[-1] == bounds[-1] == num_rows:
        return Layout(dispatch.token_N, dispatch.weight_N, edges, None, dispatch)
    device = dispatch.token_N.device
    shifts = [new - old for new, old in zip(edges, bounds)][:-1]
    shift_E, count_E = torch.tensor([shifts, counts], device=device)
    row_N = torch.full((num_rows,), edges[-1], device=device)
    live = row_N[: bounds[-1]]
    torch.add(torch.arange(len(live), device=device), shift_E.repeat_interleave(count_E), out=live)
    token_R = dispatch.token_N.new_zeros(edges[-1] + 1).index_copy_(0, live, dispatch.token_N[: len(live)])
    weight_R = dispatch.weight_N.new_zeros(edges[-1] + 1).index_copy_(0, live, dispatch.weight_N[: len(live)])
    return Layout(token_R, weight_R, edges, row_N, dispatch)
