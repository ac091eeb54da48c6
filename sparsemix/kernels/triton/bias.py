"""What the biases add to backward: sums over each expert's rows, and a dot product with the bias in each row."""

# A kernel is annotated for Triton's compiler, not for its callers.
# pyright: reportArgumentType=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsemix.kernels.triton.schedule import Tiles, rows_of
from sparsemix.kernels.triton.tuning import INTERPRETED


def sum_rows(
    a: Tensor, bias_EG: Tensor, bounds: Tensor, token_N: Tensor | None = None, weight_N: Tensor | None = None
) -> Tensor:
    """The sum over the rows n of expert e of w_n a_n, (E, G); 0 for an expert without rows.

    Args:
        a: (N, G), or (T, G) with the token of each row in `token_N`.
        bias_EG: what the result is the gradient of.
        bounds: int32, E + 1 offsets.
        token_N: the row of `a` that each row reads.
        weight_N: w; 1 without.
    """
    out_EG = torch.empty_like(bias_EG, memory_format=torch.contiguous_format)
    num_experts, width = out_EG.shape
    block_n = 16 if INTERPRETED else 64
    _sum_rows_kernel[(num_experts, triton.cdiv(width, block_n))](
        a, token_N, weight_N, out_EG, bounds, WIDTH=width, BLOCK_M=16 if INTERPRETED else 32, BLOCK_N=block_n
    )
    return out_EG


def dot_with_bias(dy_TD: Tensor, token_N: Tensor, bias_ED: Tensor, tiles: Tiles) -> Tensor:
    """<b_e, dy_t> for each row, (N,) float32; dead rows are not written."""
    dot_N = dy_TD.new_empty(len(token_N), dtype=torch.float32)
    _dot_with_bias_kernel[(tiles.num_slots,)](
        dy_TD,
        token_N,
        bias_ED.contiguous(),
        dot_N,
        tiles.bounds,
        tiles.expert,
        tiles.row,
        tiles.num_experts,
        D=dy_TD.shape[1],
        BLOCK_M=tiles.block_rows,
        BLOCK_D=16 if INTERPRETED else 64,
    )
    return dot_N


@triton.jit
def _sum_rows_kernel(
    a_ptr,
    token_ptr,
    weight_ptr,
    out_ptr,
    bounds_ptr,
    WIDTH: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    expert = tl.program_id(0)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    end = tl.load(bounds_ptr + expert + 1)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for first in range(tl.load(bounds_ptr + expert), end, BLOCK_M):
        rows = first + tl.arange(0, BLOCK_M)
        live = rows < end
        if token_ptr is not None:
            a_rows = tl.load(token_ptr + rows, mask=live, other=0)
        else:
            a_rows = rows.to(tl.int64)
        mask = live[:, None] & (n < WIDTH)[None, :]
        a = tl.load(a_ptr + a_rows[:, None] * WIDTH + n[None, :], mask=mask, other=0.0).to(tl.float32)
        if weight_ptr is not None:
            a *= tl.load(weight_ptr + rows, mask=live, other=0.0).to(tl.float32)[:, None]
        acc += a
    total = tl.sum(acc, 0).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + expert.to(tl.int64) * WIDTH + n, total, mask=n < WIDTH)


@triton.jit
def _dot_with_bias_kernel(
    dy_ptr,
    token_ptr,
    bias_ptr,
    dot_ptr,
    bounds_ptr,
    expert_ptr,
    row_ptr,
    num_experts,
    D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    slot = tl.program_id(0)
    expert = tl.load(expert_ptr + slot)
    if expert == num_experts:
        return
    rows, live = rows_of(slot, expert, row_ptr, bounds_ptr, BLOCK_M)
    dy_ptrs = dy_ptr + tl.load(token_ptr + rows)[:, None] * D
    acc = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    for first in range(0, D, BLOCK_D):
        d = first + tl.arange(0, BLOCK_D)
        dy = tl.load(dy_ptrs + d[None, :], mask=(d < D)[None, :], other=0.0).to(tl.float32)
        acc += dy * tl.load(bias_ptr + expert.to(tl.int64) * D + d, mask=d < D, other=0.0).to(tl.float32)[None, :]
    tl.store(dot_ptr + rows, tl.sum(acc, 1), mask=live)
