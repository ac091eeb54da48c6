"""Up projection: rows gathered by token as they are loaded, bias and activation on the way out."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from sparsemix.kernels.activations import Activation
from sparsemix.kernels.triton.activations import constants, gated_and_slopes, pointwise_and_slope
from sparsemix.kernels.triton.schedule import Tiles, place_in_group, rows_of
from sparsemix.kernels.triton.tile import dot_rows, dot_rows_pair, weight_ptrs
from sparsemix.kernels.triton.tuning import PAIR, SINGLE, dot_precision, tuned


def up_projection(
    x_TD: Tensor,
    token_N: Tensor,
    weight_N: Tensor,
    up_EGD: Tensor,
    up_bias_EG: Tensor | None,
    activation: Activation,
    tiles: Tiles,
) -> tuple[Tensor, Tensor]:
    """(h_NG, wa_NF): h_n = W_up x_t + b_up, and w_n act(h_n) of h as it was rounded; dead rows are not written."""
    num_rows, (_, wide, dim) = len(token_N), up_EGD.shape
    hidden = wide // activation.width
    h_NG, wa_NF = x_TD.new_empty(num_rows, wide), x_TD.new_empty(num_rows, hidden)
    kernel = _gated_up if activation.width == 2 else _plain_up
    kernel[lambda meta: (tiles.num_slots * triton.cdiv(hidden, meta["BLOCK_N"]),)](
        x_TD,
        token_N,
        weight_N,
        up_EGD,
        None if up_bias_EG is None else up_bias_EG.contiguous(),
        h_NG,
        wa_NF,
        tiles.bounds,
        tiles.expert,
        tiles.row,
        tiles.num_slots,
        tiles.num_experts,
        *up_EGD.stride(),
        D=dim,
        F=hidden,
        PRECISION=dot_precision(),
        BLOCK_M=tiles.block_rows,
        **constants(activation, hidden),
    )
    return h_NG, wa_NF


@triton.jit
def _up_kernel(
    x_ptr,
    token_ptr,
    weight_ptr,
    up_ptr,
    bias_ptr,
    h_ptr,
    wa_ptr,
    bounds_ptr,
    expert_ptr,
    row_ptr,
    num_slots,
    num_experts,
    stride_e,
    stride_g,
    stride_d,
    D: tl.constexpr,
    F: tl.constexpr,
    STEP: tl.constexpr,
    UP: tl.constexpr,
    NAME: tl.constexpr,
    LIMIT: tl.constexpr,
    ALPHA: tl.constexpr,
    OFFSET: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
):
    COLUMNS: tl.constexpr = (F + BLOCK_N - 1) // BLOCK_N
    slot, tile = place_in_group(tl.program_id(0), num_slots, COLUMNS, GROUP)
    expert = tl.load(expert_ptr + slot)
    if expert == num_experts:
        return
    rows, live = rows_of(slot, expert, row_ptr, bounds_ptr, BLOCK_M)
    f = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    EVEN: tl.constexpr = F % BLOCK_N == 0
    G: tl.constexpr = 2 * F if UP else F
    g = f * STEP
    depth = tl.arange(0, BLOCK_K)
    x_ptrs = x_ptr + tl.load(token_ptr + rows)[:, None] * D + depth[None, :]
    w_ptrs = weight_ptrs(up_ptr, expert, depth, g, stride_e, stride_g, stride_d)
    store = live[:, None] & (f < F)[None, :]
    if UP:
        v_ptrs = weight_ptrs(up_ptr, expert, depth, g + UP, stride_e, stride_g, stride_d)
        gate, up = dot_rows_pair(x_ptrs, w_ptrs, v_ptrs, stride_d, f < F, D, EVEN, PRECISION, BLOCK_M, BLOCK_N, BLOCK_K)
        gate = _store_h(gate, h_ptr, bias_ptr, expert, rows, g, f < F, store, G)
        up = _store_h(up, h_ptr, bias_ptr, expert, rows, g + UP, f < F, store, G)
        a, _, _ = gated_and_slopes(gate, up, NAME, LIMIT, ALPHA, OFFSET)  # the compiler drops the slopes
    else:
        h = dot_rows(x_ptrs, w_ptrs, stride_d, f < F, D, EVEN, PRECISION, BLOCK_M, BLOCK_N, BLOCK_K)
        a, _ = pointwise_and_slope(_store_h(h, h_ptr, bias_ptr, expert, rows, g, f < F, store, G), NAME)
    wa = a * tl.load(weight_ptr + rows).to(tl.float32)[:, None]
    tl.store(wa_ptr + rows[:, None] * F + f[None, :], wa.to(wa_ptr.dtype.element_ty), mask=store)


@triton.jit
def _store_h(h, h_ptr, bias_ptr, expert, rows, column, column_ok, store, G: tl.constexpr):
    """Add the bias, write h, and return it as it was rounded, so that backward sees the same."""
    if bias_ptr is not None:
        h += tl.load(bias_ptr + expert * G + column, mask=column_ok, other=0.0).to(tl.float32)[None, :]
    h = h.to(h_ptr.dtype.element_ty)
    tl.store(h_ptr + rows[:, None] * G + column[None, :], h, mask=store)
    return h.to(tl.float32)


_KEY = ["D", "F", "num_experts", "stride_d", "STEP", "BLOCK_M", "PRECISION"]
_plain_up = tuned(SINGLE, _KEY)(_up_kernel)
_gated_up = tuned(PAIR, _KEY)(_up_kernel)
