"""Experts on the CPU, a block of rows at a time: it goes through both projections while it is in the cache."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparsemix.kernels.activations import Activation
from sparsemix.kernels.gemm import add_product, product, write_product
from sparsemix.kernels.layout import Part, lay_out
from sparsemix.kernels.memory import fresh
from sparsemix.kernels.weights import ExpertWeights, Gradients, Needs
from sparsemix.routing import Dispatch

Parts = Sequence[Part]


def forward(
    x_TD: Tensor, dispatch: Dispatch, weights: ExpertWeights, activation: Activation
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """(y_TO, saved): the combined outputs, and the pre-activation of each block.

    Blocks are kept apart: one tensor of them all would have to be copied into, and be faulted in page by page.
    """
    layout = lay_out(dispatch, weights.up_EGD)
    w_R1 = layout.weight_R[:, None].to(x_TD.dtype)
    y_RO = fresh(x_TD, len(w_R1), weights.down_EDF.shape[1])
    saved = []
    for rows, parts in layout.blocks():
        h = _products(x_TD.index_select(0, layout.token_R[rows]), weights.up_EGD.mT, parts)
        if weights.up_bias_EG is not None:
            _add_biases(h, weights.up_bias_EG, torch.ones_like(w_R1[rows]), parts)
        _write_products(y_RO[rows], activation.forward(h).mul_(w_R1[rows]), weights.down_EDF.mT, parts)
        if weights.down_bias_ED is not None:
            _add_biases(y_RO[rows], weights.down_bias_ED, w_R1[rows], parts)
        saved.append(h)
    return layout.combine(y_RO, len(x_TD)), tuple(saved)


def backward(
    dy_TO: Tensor,
    x_TD: Tensor,
    saved: Sequence[Tensor],
    dispatch: Dispatch,
    weights: ExpertWeights,
    activation: Activation,
    needs: Needs,
) -> Gradients:
    """The gradients asked for, each written once."""
    layout = lay_out(dispatch, weights.up_EGD)
    w_R1 = layout.weight_R[:, None].to(x_TD.dtype)
    sums = Gradients(None, None, *(_sum_of(of, layout.edges) if need else None for of, need in zip(weights, needs[2:])))
    dx_RD = fresh(x_TD, len(w_R1), x_TD.shape[1])
    dw_R = dispatch.weight_N.new_empty(len(w_R1))
    for (rows, parts), h in zip(layout.blocks(), saved, strict=True):
        w, dy = w_R1[rows], dy_TO.index_select(0, layout.token_R[rows])
        dwa = _products(dy, weights.down_EDF, parts)  # of the weighted activation w a; those of w and a follow
        a, dh = activation.recompute(h, dwa * w)
        torch.sum(dwa.mul_(a), 1, dtype=dw_R.dtype, out=dw_R[rows])
        if weights.down_bias_ED is not None:
            _add_bias_to_weight_grad(dw_R[rows], dy, weights.down_bias_ED, parts)
        _add_up(sums.down_EDF, sums.down_bias_ED, dy, a.mul_(w), w, parts)
        if sums.up_EGD is not None or sums.up_bias_EG is not None:
            x = x_TD.index_select(0, layout.token_R[rows])
            _add_up(sums.up_EGD, sums.up_bias_EG, dh, x, torch.ones_like(w), parts)
        if needs.x_TD:
            _write_products(dx_RD[rows], dh, weights.up_EGD, parts)
    dx_TD = layout.combine(dx_RD, len(x_TD)) if needs.x_TD else None
    return sums._replace(x_TD=dx_TD, weight_N=layout.to_dispatch(dw_R))


def _products(x_RD: Tensor, w_EDF: Tensor, parts: Parts) -> Tensor:
    """Each part's rows times the matrix of its expert; (R, F)."""
    if len(parts) == 1:
        return product(x_RD, w_EDF[parts[0].expert])
    y_RF = x_RD.new_empty(len(x_RD), w_EDF.shape[2])
    _write_products(y_RF, x_RD, w_EDF, parts)
    return y_RF


def _write_products(out_RF: Tensor, x_RD: Tensor, w_EDF: Tensor, parts: Parts) -> None:
    """The same into rows that are there."""
    for expert, rows, _ in parts:
        write_product(out_RF[rows], x_RD[rows], w_EDF[expert])


def _add_biases(y_RF: Tensor, bias_EF: Tensor, w_R1: Tensor, parts: Parts) -> None:
    for expert, rows, _ in parts:
        y_RF[rows].addcmul_(w_R1[rows], bias_EF[expert])


def _add_bias_to_weight_grad(dw_R: Tensor, dy_RD: Tensor, bias_ED: Tensor, parts: Parts) -> None:
    for expert, rows, _ in parts:
        dw_R[rows] += (dy_RD[rows] @ bias_ED[expert]).to(dw_R.dtype)


def _add_up(
    dw_EFD: Tensor | None, dbias_EF: Tensor | None, dy_RF: Tensor, x_RD: Tensor, ones_R1: Tensor, parts: Parts
) -> None:
    """Each part's share of the gradients of its expert's matrix and bias."""
    for expert, rows, first in parts:
        if dw_EFD is not None:
            add_product(dw_EFD[expert], dy_RF[rows].T, x_RD[rows], first)
        if dbias_EF is not None:
            add_product(dbias_EF[expert, None], ones_R1[rows].T, dy_RF[rows], first)


def _sum_of(of: Tensor | None, edges: tuple[int, ...]) -> Tensor | None:
    """Where a gradient will be added up: 0 for experts without rows, since no part will write theirs."""
    if of is None:
        return None
    total = fresh(of, *of.shape)
    for expert in range(len(of)):
        if edges[expert] == edges[expert + 1]:
            total[expert].zero_()
    return total
