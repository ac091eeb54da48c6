"""Combine: each token gathers its live rows and adds them up, always in one order."""

# A kernel is annotated for Triton's compiler, not for its callers.
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsemix.routing import Dispatch


class RowsOfTokens(NamedTuple):
    """The sorted rows of each token, dead ones included."""

    row_N: Tensor
    """int64, the rows, token by token."""
    offset: Tensor | None
    """int64, T + 1 offsets into them; None where every token has `per_token`."""
    per_token: int


def rows_of_tokens(dispatch: Dispatch, num_tokens: int) -> RowsOfTokens:
    """Turn the dispatch around, on the device."""
    if dispatch.slot_TK is not None:
        return RowsOfTokens(dispatch.slot_TK.flatten(), None, dispatch.slot_TK.shape[1])
    token_N, row_N = torch.sort(dispatch.token_N, stable=True)
    tokens = torch.arange(num_tokens + 1, device=token_N.device)
    return RowsOfTokens(row_N, torch.searchsorted(token_N, tokens), 0)


def combine(y_ND: Tensor, rows: RowsOfTokens, bounds: Tensor, num_tokens: int) -> Tensor:
    """y_t = sum of the live rows y_n of token t, added up in float32, (T, D); dead rows are not read."""
    dim = y_ND.shape[1]
    y_TD = y_ND.new_empty(num_tokens, dim)
    block_d = min(2048, triton.next_power_of_2(dim))
    _combine_kernel[(num_tokens, triton.cdiv(dim, block_d))](
        y_ND,
        rows.row_N,
        rows.offset,
        bounds[-1:],
        y_TD,
        D=dim,
        K=rows.per_token,
        BLOCK_D=block_d,
        num_warps=max(1, min(8, block_d // 256)),
    )
    return y_TD


@triton.jit
def _combine_kernel(
    y_ptr,
    row_ptr,
    offset_ptr,
    num_live_ptr,
    out_ptr,
    D: tl.constexpr,
    K: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    num_live = tl.load(num_live_ptr)
    acc = tl.zeros((BLOCK_D,), tl.float32)
    if offset_ptr is None:
        for k in tl.static_range(K):
            row = tl.load(row_ptr + token * K + k)
            width = tl.where(row < num_live, D, 0)  # nothing of a dead row
            acc += tl.load(y_ptr + row * D + d, mask=d < width, other=0.0).to(tl.float32)
    else:
        for place in range(tl.load(offset_ptr + token), tl.load(offset_ptr + token + 1)):
            row = tl.load(row_ptr + place)
            width = tl.where(row < num_live, D, 0)
            acc += tl.load(y_ptr + row * D + d, mask=d < width, other=0.0).to(tl.float32)
    tl.store(out_ptr + token * D + d, acc.to(out_ptr.dtype.element_ty), mask=d < D)
