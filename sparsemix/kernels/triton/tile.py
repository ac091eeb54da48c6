"""What the grouped products share on the device: loading a tile, and the loop over the depth of a product."""

# A kernel is annotated for Triton's compiler, not for its callers.
# pyright: reportArgumentType=false

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load_tile(ptrs, row_ok, column_ok, ALL_ROWS: tl.constexpr, ALL_COLUMNS: tl.constexpr):
    """The tile with 0 outside; no mask where the sizes need none, since masked loads are slower."""
    if ALL_ROWS and ALL_COLUMNS:
        tile = tl.load(ptrs)
    elif ALL_ROWS:
        tile = tl.load(ptrs, mask=column_ok[None, :], other=0.0)
    elif ALL_COLUMNS:
        tile = tl.load(ptrs, mask=row_ok[:, None], other=0.0)
    else:
        tile = tl.load(ptrs, mask=row_ok[:, None] & column_ok[None, :], other=0.0)
    return tile


@triton.jit
def weight_ptrs(w_ptr, expert, depth, column, stride_e, stride_n, stride_k):
    """Pointers to w[expert, column, depth] as a tile of depth by columns, with any strides."""
    return (
        w_ptr
        + expert.to(tl.int64) * stride_e
        + depth.to(tl.int64)[:, None] * stride_k
        + column.to(tl.int64)[None, :] * stride_n
    )


@triton.jit
def dot_rows(
    a_ptrs,
    w_ptrs,
    stride_k,
    column_ok,
    DEPTH: tl.constexpr,
    ALL_COLUMNS: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Rows of A, contiguous along the depth, times a tile of columns of W, summed in float32."""
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    depth = tl.arange(0, BLOCK_K)
    w_step = tl.cast(stride_k, tl.int64) * BLOCK_K
    for k in range(0, DEPTH, BLOCK_K):
        depth_ok = depth < DEPTH - k
        a = load_tile(a_ptrs, depth_ok, depth_ok, True, DEPTH % BLOCK_K == 0)
        w = load_tile(w_ptrs, depth_ok, column_ok, DEPTH % BLOCK_K == 0, ALL_COLUMNS)
        acc = tl.dot(a, w, acc, input_precision=PRECISION)
        a_ptrs += BLOCK_K
        w_ptrs += w_step
    return acc


@triton.jit
def dot_rows_pair(
    a_ptrs,
    v_ptrs,
    w_ptrs,
    stride_k,
    column_ok,
    DEPTH: tl.constexpr,
    ALL_COLUMNS: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """`dot_rows` with V and with W at once: the rows are loaded once for both."""
    acc_v = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    acc_w = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    depth = tl.arange(0, BLOCK_K)
    w_step = tl.cast(stride_k, tl.int64) * BLOCK_K
    for k in range(0, DEPTH, BLOCK_K):
        depth_ok = depth < DEPTH - k
        a = load_tile(a_ptrs, depth_ok, depth_ok, True, DEPTH % BLOCK_K == 0)
        v = load_tile(v_ptrs, depth_ok, column_ok, DEPTH % BLOCK_K == 0, ALL_COLUMNS)
        acc_v = tl.dot(a, v, acc_v, input_precision=PRECISION)
        w = load_tile(w_ptrs, depth_ok, column_ok, DEPTH % BLOCK_K == 0, ALL_COLUMNS)
        acc_w = tl.dot(a, w, acc_w, input_precision=PRECISION)
        a_ptrs += BLOCK_K
        v_ptrs += w_step
        w_ptrs += w_step
    return acc_v, acc_w
