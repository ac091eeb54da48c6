"""Which tile of rows each program computes, worked out on the device: no size depends on how the tokens went."""

# A kernel is annotated for Triton's compiler, not for its callers.
# pyright: reportArgumentType=false

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsemix.kernels.triton.tuning import block_rows


class Tiles(NamedTuple):
    """Slots for tiles of rows, each within one expert: as many as any load can need, the last ones unused."""

    expert: Tensor
    """int32, the expert of each slot; E where the slot is unused."""
    row: Tensor
    """int32, the first row of each slot."""
    bounds: Tensor
    """int32, E + 1 offsets: where each expert's rows begin."""
    block_rows: int
    """Rows of a tile; the last tile of an expert may have fewer."""

    @property
    def num_slots(self) -> int:
        return len(self.expert)

    @property
    def num_experts(self) -> int:
        return len(self.bounds) - 1


def tile_rows(bounds: Tensor, num_rows: int) -> Tiles:
    """Cut each expert's rows into tiles, expert by expert, without waiting for the device.

    Args:
        bounds: int32, E + 1 offsets.
        num_rows: N, at least 1; rows past the last offset get no tile.
    """
    num_experts = len(bounds) - 1
    block = block_rows(num_rows, num_experts)
    # Each expert has at most one tile that is not full, and each tile at least one row.
    num_slots = min(num_rows, num_rows // block + num_experts)
    expert, row = torch.empty(2, num_slots, dtype=torch.int32, device=bounds.device).unbind(0)
    block_experts = triton.next_power_of_2(num_experts)
    block_slots = max(1, min(16, 8192 // block_experts))  # what a program holds is their product
    _schedule_kernel[(triton.cdiv(num_slots, block_slots),)](
        bounds,
        expert,
        row,
        num_experts,
        num_slots,
        BLOCK_M=block,
        BLOCK_SLOTS=block_slots,
        BLOCK_E=block_experts,
    )
    return Tiles(expert, row, bounds, block)


@triton.jit
def _schedule_kernel(
    bounds_ptr,
    expert_ptr,
    row_ptr,
    num_experts,
    num_slots,
    BLOCK_M: tl.constexpr,
    BLOCK_SLOTS: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    experts = tl.arange(0, BLOCK_E)
    start = tl.load(bounds_ptr + experts, mask=experts < num_experts, other=0)
    end = tl.load(bounds_ptr + experts + 1, mask=experts < num_experts, other=0)
    tiles = (end - start + BLOCK_M - 1) // BLOCK_M
    last = tl.cumsum(tiles, 0)

    slot = tl.program_id(0) * BLOCK_SLOTS + tl.arange(0, BLOCK_SLOTS)
    earlier = last[None, :] <= slot[:, None]  # the experts whose tiles all lie before the slot
    expert = tl.minimum(tl.sum(earlier.to(tl.int32), 1), num_experts)
    place = slot - tl.sum(tl.where(earlier, tiles[None, :], 0), 1)
    row = tl.load(bounds_ptr + expert) + place * BLOCK_M
    tl.store(expert_ptr + slot, expert, mask=slot < num_slots)
    tl.store(row_ptr + slot, row, mask=slot < num_slots)


@triton.jit
def place_in_group(index, num_rows, COLUMNS: tl.constexpr, GROUP: tl.constexpr):
    """(row, column) of a tile, GROUP rows at a time down a column: neighbours in time share what lies in the cache."""
    group = index // (GROUP * COLUMNS)
    inside = index % (GROUP * COLUMNS)
    first = group * GROUP
    size = tl.minimum(num_rows - first, GROUP)
    return first + inside % size, inside // size


@triton.jit
def rows_of(slot, expert, row_ptr, bounds_ptr, BLOCK_M: tl.constexpr):
    """(rows, live): the rows of a slot; those not live repeat the expert's last row, so that any may be read."""
    end = tl.load(bounds_ptr + expert + 1)
    rows = tl.load(row_ptr + slot) + tl.arange(0, BLOCK_M)
    return tl.minimum(rows, end - 1).to(tl.int64), rows < end
