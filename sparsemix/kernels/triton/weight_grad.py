"""Gradient of a stack of weights: one product over each expert's rows, gathered by token as they are loaded."""

# A kernel is annotated for Triton's compiler, not for its callers.
# pyright: reportArgumentType=false

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from sparsemix.kernels.triton.schedule import place_in_group
from sparsemix.kernels.triton.tile import load_tile
from sparsemix.kernels.triton.tuning import SQUARE, dot_precision, tuned


def weight_gradient(
    left: Tensor,
    right: Tensor,
    out: Tensor,
    bounds: Tensor,
    *,
    left_token_N: Tensor | None = None,
    right_token_N: Tensor | None = None,
) -> Tensor:
    """out_e = sum over the rows n of expert e of left_n right_n^T, written once; 0 for an expert without rows.

    Args:
        left: (N, L), or (T, L) with the token of each row in `left_token_N`.
        right: (N, R), or (T, R) with `right_token_N`.
        out: (E, L, R) with any strides: where the result goes.
        bounds: int32, E + 1 offsets.
        left_token_N: the row of `left` that each row reads.
        right_token_N: the row of `right` that each row reads.
    """
    num_experts, num_left, num_right = out.shape
    _weight_gradient_kernel[
        lambda meta: (num_experts * triton.cdiv(num_left, meta["BLOCK_M"]) * triton.cdiv(num_right, meta["BLOCK_N"]),)
    ](
        left,
        right,
        left_token_N,
        right_token_N,
        out,
        bounds,
        num_experts,
        *out.stride(),
        LEFT=num_left,
        RIGHT=num_right,
        PRECISION=dot_precision(),
    )
    return out


@tuned(SQUARE, key=["LEFT", "RIGHT", "num_experts", "stride_r", "PRECISION"])
@triton.jit
def _weight_gradient_kernel(
    left_ptr,
    right_ptr,
    left_token_ptr,
    right_token_ptr,
    out_ptr,
    bounds_ptr,
    num_experts,
    stride_e,
    stride_l,
    stride_r,
    LEFT: tl.constexpr,
    RIGHT: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
):
    TILES: tl.constexpr = (LEFT + BLOCK_M - 1) // BLOCK_M
    COLUMNS: tl.constexpr = (RIGHT + BLOCK_N - 1) // BLOCK_N
    expert = tl.program_id(0) // (TILES * COLUMNS)
    tile_m, tile_n = place_in_group(tl.program_id(0) % (TILES * COLUMNS), TILES, COLUMNS, GROUP)
    m = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    end = tl.load(bounds_ptr + expert + 1)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for first in range(tl.load(bounds_ptr + expert), end, BLOCK_K):
        rows = first + tl.arange(0, BLOCK_K)
        live = rows < end  # rows of other experts and dead rows must count 0 here, whatever they hold
        if left_token_ptr is not None:
            left_rows = tl.load(left_token_ptr + rows, mask=live, other=0)
        else:
            left_rows = rows.to(tl.int64)
        if right_token_ptr is not None:
            right_rows = tl.load(right_token_ptr + rows, mask=live, other=0)
        else:
            right_rows = rows.to(tl.int64)
        a = load_tile(left_ptr + left_rows[None, :] * LEFT + m[:, None], m < LEFT, live, LEFT % BLOCK_M == 0, False)
        b = load_tile(
            right_ptr + right_rows[:, None] * RIGHT + n[None, :], live, n < RIGHT, False, RIGHT % BLOCK_N == 0
        )
        acc = tl.dot(a, b, acc, input_precision=PRECISION)
    out_ptrs = (
        out_ptr
        + expert.to(tl.int64) * stride_e
        + m.to(tl.int64)[:, None] * stride_l
        + n.to(tl.int64)[None, :] * stride_r
    )
    tl.store(out_ptrs, acc.to(out_ptr.dtype.element_ty), mask=(m < LEFT)[:, None] & (n < RIGHT)[None, :])
