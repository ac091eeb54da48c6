"""Grouped product of sorted rows: the down projection, with its bias, and the gradient of the rows of x."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from sparsemix.kernels.triton.schedule import Tiles, place_in_group, rows_of
from sparsemix.kernels.triton.tile import dot_rows, weight_ptrs
from sparsemix.kernels.triton.tuning import SINGLE, dot_precision, tuned


def grouped_matmul(
    a_NF: Tensor, w_EDF: Tensor, tiles: Tiles, bias_ED: Tensor | None = None, weight_N: Tensor | None = None
) -> Tensor:
    """y_n = W_e a_n + w_n b_e for the rows n of expert e, (N, D); `w` has any strides, dead rows are not written."""
    (num_rows, depth), width = a_NF.shape, w_EDF.shape[1]
    y_ND = a_NF.new_empty(num_rows, width)
    _grouped_matmul_kernel[lambda meta: (tiles.num_slots * triton.cdiv(width, meta["BLOCK_N"]),)](
        a_NF,
        w_EDF,
        None if bias_ED is None else bias_ED.contiguous(),
        weight_N,
        y_ND,
        tiles.bounds,
        tiles.expert,
        tiles.row,
        tiles.num_slots,
        tiles.num_experts,
        *w_EDF.stride(),
        DEPTH=depth,
        WIDTH=width,
        PRECISION=dot_precision(),
        BLOCK_M=tiles.block_rows,
    )
    return y_ND


@tuned(SINGLE, key=["DEPTH", "WIDTH", "num_experts", "stride_k", "BLOCK_M", "PRECISION"])
@triton.jit
def _grouped_matmul_kernel(
    a_ptr,
    w_ptr,
    bias_ptr,
    weight_ptr,
    y_ptr,
    bounds_ptr,
    expert_ptr,
    row_ptr,
    num_slots,
    num_experts,
    stride_e,
    stride_n,
    stride_k,
    DEPTH: tl.constexpr,
    WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
):
    COLUMNS: tl.constexpr = (WIDTH + BLOCK_N - 1) // BLOCK_N
    slot, tile = place_in_group(tl.program_id(0), num_slots, COLUMNS, GROUP)
    expert = tl.load(expert_ptr + slot)
    if expert == num_experts:
        return
    rows, live = rows_of(slot, expert, row_ptr, bounds_ptr, BLOCK_M)
    n = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    depth = tl.arange(0, BLOCK_K)
    a_ptrs = a_ptr + rows[:, None] * DEPTH + depth[None, :]
    w_ptrs = weight_ptrs(w_ptr, expert, depth, n, stride_e, stride_n, stride_k)
    y = dot_rows(a_ptrs, w_ptrs, stride_k, n < WIDTH, DEPTH, WIDTH % BLOCK_N == 0, PRECISION, BLOCK_M, BLOCK_N, BLOCK_K)
    if bias_ptr is not None:
        bias = tl.load(bias_ptr + expert * WIDTH + n, mask=n < WIDTH, other=0.0).to(tl.float32)
        y += tl.load(weight_ptr + rows).to(tl.float32)[:, None] * bias[None, :]
    y_ptrs = y_ptr + rows[:, None] * WIDTH + n[None, :]
    tl.store(y_ptrs, y.to(y_ptr.dtype.element_ty), mask=live[:, None] & (n < WIDTH)[None, :])
