"""Back through the down projection and the activation in one product: dh, w a again, and the dots that give dw."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsemix.kernels.activations import Activation
from sparsemix.kernels.triton.activations import constants, gated_and_slopes, pointwise_and_slope
from sparsemix.kernels.triton.schedule import Tiles, place_in_group, rows_of
from sparsemix.kernels.triton.tile import dot_rows, weight_ptrs
from sparsemix.kernels.triton.tuning import EPILOGUE, PART, dot_precision, tuned


def hidden_gradient(
    dy_TD: Tensor,
    h_NG: Tensor,
    token_N: Tensor,
    weight_N: Tensor,
    down_EDF: Tensor,
    activation: Activation,
    tiles: Tiles,
    *,
    dh: bool,
    wa: bool,
    dots: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """What the other gradients are made of, with dwa_n = W_down^T dy_t and a_n = act(h_n) recomputed.

    Returns:
        dh_NG = act'(h_n) w_n dwa_n, if `dh`;
        wa_NF = w_n a_n, if `wa`;
        dots: float32 (parts, N), whose sum over the parts is <dwa_n, a_n>, if `dots`.
        Dead rows are not written.
    """
    if not (dh or wa or dots):
        return None, None, None
    num_rows, (_, dim, hidden) = len(token_N), down_EDF.shape
    parts = (-(-hidden // PART), num_rows)
    dh_NG = torch.empty_like(h_NG) if dh else None
    wa_NF = h_NG.new_empty(num_rows, hidden) if wa else None
    dot_parts = h_NG.new_empty(parts, dtype=torch.float32) if dots else None
    stride_e, stride_d, stride_f = down_EDF.stride()
    _hidden_gradient_kernel[lambda meta: (tiles.num_slots * triton.cdiv(hidden, meta["BLOCK_N"]),)](
        dy_TD,
        h_NG,
        token_N,
        weight_N,
        down_EDF,
        dh_NG,
        wa_NF,
        dot_parts,
        tiles.bounds,
        tiles.expert,
        tiles.row,
        num_rows,
        tiles.num_slots,
        tiles.num_experts,
        stride_e,
        stride_f,
        stride_d,
        D=dim,
        F=hidden,
        PART=PART,
        PRECISION=dot_precision(),
        BLOCK_M=tiles.block_rows,
        **constants(activation, hidden),
    )
    return dh_NG, wa_NF, dot_parts


@tuned(EPILOGUE, key=["D", "F", "STEP", "UP", "num_experts", "stride_d", "BLOCK_M", "PRECISION"])
@triton.jit
def _hidden_gradient_kernel(
    dy_ptr,
    h_ptr,
    token_ptr,
    weight_ptr,
    down_ptr,
    dh_ptr,
    wa_ptr,
    dots_ptr,
    bounds_ptr,
    expert_ptr,
    row_ptr,
    num_rows,
    num_slots,
    num_experts,
    stride_e,
    stride_f,
    stride_d,
    D: tl.constexpr,
    F: tl.constexpr,
    STEP: tl.constexpr,
    UP: tl.constexpr,
    NAME: tl.constexpr,
    LIMIT: tl.constexpr,
    ALPHA: tl.constexpr,
    OFFSET: tl.constexpr,
    PART: tl.constexpr,
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
    w = tl.load(weight_ptr + rows).to(tl.float32)[:, None]
    dwa = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    if dh_ptr is not None or dots_ptr is not None:
        f = tile * BLOCK_N + tl.arange(0, BLOCK_N)
        depth = tl.arange(0, BLOCK_K)
        dy_ptrs = dy_ptr + tl.load(token_ptr + rows)[:, None] * D + depth[None, :]
        down_ptrs = weight_ptrs(down_ptr, expert, depth, f, stride_e, stride_f, stride_d)
        dwa = dot_rows(dy_ptrs, down_ptrs, stride_d, f < F, D, F % BLOCK_N == 0, PRECISION, BLOCK_M, BLOCK_N, BLOCK_K)

    # What follows needs several registers a number: by halves, so that wide tiles need not spill.
    PARTS: tl.constexpr = BLOCK_N // PART
    part = tile * PARTS
    places = (w, rows, live, num_rows, h_ptr, dh_ptr, wa_ptr, dots_ptr)
    if PARTS == 1:
        _finish(dwa, part, *places, F, PART, STEP, UP, NAME, LIMIT, ALPHA, OFFSET)
    else:
        tl.static_assert(PARTS == 2)
        left, right = tl.split(dwa.reshape(BLOCK_M, 2, PART).permute(0, 2, 1))
        _finish(left, part, *places, F, PART, STEP, UP, NAME, LIMIT, ALPHA, OFFSET)
        if (part + 1) * PART < F:
            _finish(right, part + 1, *places, F, PART, STEP, UP, NAME, LIMIT, ALPHA, OFFSET)


@triton.jit
def _finish(
    dwa,
    part,
    w,
    rows,
    live,
    num_rows,
    h_ptr,
    dh_ptr,
    wa_ptr,
    dots_ptr,
    F: tl.constexpr,
    PART: tl.constexpr,
    STEP: tl.constexpr,
    UP: tl.constexpr,
    NAME: tl.constexpr,
    LIMIT: tl.constexpr,
    ALPHA: tl.constexpr,
    OFFSET: tl.constexpr,
):
    """From dwa on PART columns, all that is made of it."""
    f = part * PART + tl.arange(0, PART)
    f_ok = (f < F)[None, :]
    store = live[:, None] & f_ok
    G: tl.constexpr = 2 * F if UP else F
    h_at = rows[:, None] * G + f[None, :] * STEP
    h = tl.load(h_ptr + h_at, mask=f_ok, other=0.0).to(tl.float32)
    da = w * dwa
    if UP:
        up = tl.load(h_ptr + h_at + UP, mask=f_ok, other=0.0).to(tl.float32)
        a, slope, by_up = gated_and_slopes(h, up, NAME, LIMIT, ALPHA, OFFSET)
        if dh_ptr is not None:
            tl.store(dh_ptr + h_at + UP, (da * by_up).to(dh_ptr.dtype.element_ty), mask=store)
    else:
        a, slope = pointwise_and_slope(h, NAME)
    if dh_ptr is not None:
        tl.store(dh_ptr + h_at, (da * slope).to(dh_ptr.dtype.element_ty), mask=store)
    if wa_ptr is not None:
        tl.store(wa_ptr + rows[:, None] * F + f[None, :], (w * a).to(wa_ptr.dtype.element_ty), mask=store)
    if dots_ptr is not None:
        tl.store(dots_ptr + part.to(tl.int64) * num_rows + rows, tl.sum(dwa * a, 1), mask=live)
