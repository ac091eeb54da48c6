"""Combine: add up the expert outputs of each token. Always a gather, so that it is deterministic on every device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sparsemix.routing import Dispatch


def combine(y_ND: Tensor, dispatch: Dispatch, num_tokens: int) -> Tensor:
    """y_t = sum of the rows y_n of the edges of token t; 0 for a token without live edges.

    Args:
        y_ND: expert outputs, already multiplied by the combine weight, in the order of the dispatch; dead rows 0.
        dispatch: which token each row belongs to.
        num_tokens: T.

    Returns:
        (T, D), the dtype of y. The gradient of row n is the gradient of its token's row.
    """
    return _Combine.apply(y_ND, dispatch, num_tokens)


def spread(x_TD: Tensor, dispatch: Dispatch) -> Tensor:
    """x_n = the row of x of row n's token, (N, D): what `combine` is the transpose of.

    The gradient of a token's row is the sum over its rows, of which the dead must be 0.
    """
    return _Spread.apply(x_TD, dispatch)


def gather_sum(y_ND: Tensor, dispatch: Dispatch, num_tokens: int) -> Tensor:
    """`combine` without autograd."""
    return _sum(y_ND, dispatch.token_N, dispatch.slot_TK, num_tokens)


def _sum(y_RD: Tensor, token_N: Tensor, slot_TK: Tensor | None, num_tokens: int) -> Tensor:
    return _sum_ragged(y_RD, token_N, num_tokens) if slot_TK is None else _sum_slots(y_RD, slot_TK)


def _sum_slots(y_ND: Tensor, slot_TK: Tensor) -> Tensor:
    y_TD = y_ND.index_select(0, slot_TK[:, 0])
    for slot_T in slot_TK.unbind(1)[1:]:
        y_TD += y_ND.index_select(0, slot_T)
    return y_TD


def _sum_ragged(y_ND: Tensor, token_N: Tensor, num_tokens: int) -> Tensor:
    token_N, order_N = torch.sort(token_N, stable=True)
    tokens = torch.arange(num_tokens + 1, device=token_N.device)
    offsets = torch.searchsorted(token_N, tokens)
    return torch.segment_reduce(y_ND.index_select(0, order_N), "sum", offsets=offsets, axis=0, unsafe=True, initial=0)


class _Combine(torch.autograd.Function):
    """Saves indices only; autograd's own gather would save nothing less but scatter with atomics in backward."""

    @staticmethod
    def forward(ctx: Any, y_ND: Tensor, dispatch: Dispatch, num_tokens: int) -> Tensor:
        ctx.save_for_backward(dispatch.token_N)
        return gather_sum(y_ND, dispatch, num_tokens)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (token_N,) = ctx.saved_tensors
        return grads[0].index_select(0, token_N), None, None


class _Spread(torch.autograd.Function):
    """Backward gathers: autograd's own adds up with atomics on a GPU."""

    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, dispatch: Dispatch) -> Tensor:
        ctx.save_for_backward(dispatch.token_N, dispatch.slot_TK)
        ctx.num_tokens = len(x_TD)
        return x_TD.index_select(0, dispatch.token_N)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (dx_ND,), (token_N, slot_TK) = grads, ctx.saved_tensors
        return _sum(dx_ND, token_N, slot_TK, ctx.num_tokens), None
