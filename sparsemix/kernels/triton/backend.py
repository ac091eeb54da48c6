"""The expert MLP, forward and backward, by the kernels of this package; what is saved is x, h and indices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparsemix.kernels.activations import Activation
from sparsemix.kernels.triton.bias import dot_with_bias, sum_rows
from sparsemix.kernels.triton.combine import combine, rows_of_tokens
from sparsemix.kernels.triton.grouped import grouped_matmul
from sparsemix.kernels.triton.hidden_grad import hidden_gradient
from sparsemix.kernels.triton.schedule import Tiles, tile_rows
from sparsemix.kernels.triton.up import up_projection
from sparsemix.kernels.triton.weight_grad import weight_gradient
from sparsemix.kernels.weights import ExpertWeights, Gradients, Needs
from sparsemix.routing import Dispatch


def forward(
    x_TD: Tensor, dispatch: Dispatch, weights: ExpertWeights, activation: Activation
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """(y_TO, (h_NG,)): y_t = sum over the live rows n of token t of w_n (W_down act(h_n) + b_down).

    Nothing waits for the device, and no size depends on the load: a CUDA graph can hold it once the tile sizes have
    been tuned, which the first call does. Dead rows of h are not written.
    """
    num_rows = len(dispatch.token_N)
    if num_rows == 0:
        return x_TD.new_zeros(len(x_TD), weights.down_EDF.shape[1]), (x_TD.new_empty(0, weights.up_EGD.shape[1]),)
    with torch.cuda.device_of(x_TD):
        tiles = tile_rows(dispatch.bounds, num_rows)
        h_NG, wa_NF = up_projection(
            x_TD.contiguous(),
            dispatch.token_N,
            dispatch.weight_N,
            weights.up_EGD,
            weights.up_bias_EG,
            activation,
            tiles,
        )
        y_NO = grouped_matmul(wa_NF, weights.down_EDF, tiles, weights.down_bias_ED, dispatch.weight_N)
        return combine(y_NO, rows_of_tokens(dispatch, len(x_TD)), dispatch.bounds, len(x_TD)), (h_NG,)


def backward(
    dy_TO: Tensor,
    x_TD: Tensor,
    saved: Sequence[Tensor],
    dispatch: Dispatch,
    weights: ExpertWeights,
    activation: Activation,
    needs: Needs,
) -> Gradients:
    """The gradients that `needs` asks for, given those of y; what `forward` promises of the device holds here too.

    Source: SonicMoE (2512.14080): with the combine weight applied before the down projection, dw = <a, W_down^T dy>.
    """
    if len(dispatch.token_N) == 0:
        return _zeros(x_TD, dispatch, weights, needs)
    with torch.cuda.device_of(x_TD):
        (h_NG,) = saved
        return _backward(dy_TO.contiguous(), x_TD.contiguous(), h_NG, dispatch, weights, activation, needs)


def _backward(
    dy_TO: Tensor,
    x_TD: Tensor,
    h_NG: Tensor,
    dispatch: Dispatch,
    weights: ExpertWeights,
    activation: Activation,
    needs: Needs,
) -> Gradients:
    token_N, bounds, down_bias_EO = dispatch.token_N, dispatch.bounds, weights.down_bias_ED
    tiles = tile_rows(bounds, len(token_N))
    dh_NG, wa_NF, dots = hidden_gradient(
        dy_TO,
        h_NG,
        token_N,
        dispatch.weight_N,
        weights.down_EDF,
        activation,
        tiles,
        dh=needs.x_TD or needs.up_EGD or (needs.up_bias_EG and weights.up_bias_EG is not None),
        wa=needs.down_EDF,
        dots=needs.weight_N,
    )
    dweight_N = ddown_EOF = ddown_bias_EO = None
    if dots is not None:
        dweight_N = _weight_of_rows(dots, dy_TO, dispatch, down_bias_EO, tiles)
    if wa_NF is not None:
        ddown_EOF = weight_gradient(dy_TO, wa_NF, torch.empty_like(weights.down_EDF), bounds, left_token_N=token_N)
        del wa_NF  # before the rows of dx take memory
    if needs.down_bias_ED and down_bias_EO is not None:
        ddown_bias_EO = sum_rows(dy_TO, down_bias_EO, bounds, token_N, dispatch.weight_N)
    return Gradients(
        weight_N=dweight_N,
        down_EDF=ddown_EOF,
        down_bias_ED=ddown_bias_EO,
        **({} if dh_NG is None else _up_gradients(dh_NG, x_TD, dispatch, weights, tiles, needs)),
    )


def _up_gradients(
    dh_NG: Tensor, x_TD: Tensor, dispatch: Dispatch, weights: ExpertWeights, tiles: Tiles, needs: Needs
) -> dict[str, Tensor]:
    """Of what lies before h, by name."""
    found, bounds = {}, dispatch.bounds
    if needs.up_EGD:
        out_EGD = torch.empty_like(weights.up_EGD)
        found["up_EGD"] = weight_gradient(dh_NG, x_TD, out_EGD, bounds, right_token_N=dispatch.token_N)
    if needs.up_bias_EG and weights.up_bias_EG is not None:
        found["up_bias_EG"] = sum_rows(dh_NG, weights.up_bias_EG, bounds)
    if needs.x_TD:
        dx_ND = grouped_matmul(dh_NG, weights.up_EGD.transpose(1, 2), tiles)
        found["x_TD"] = combine(dx_ND, rows_of_tokens(dispatch, len(x_TD)), bounds, len(x_TD))
    return found


def _weight_of_rows(
    dots: Tensor, dy_TO: Tensor, dispatch: Dispatch, down_bias_EO: Tensor | None, tiles: Tiles
) -> Tensor:
    """dw_n = <a_n, W_down^T dy_t> + <b_down, dy_t>; 0 for dead rows, whose dot products nobody wrote."""
    dweight_N = dots.sum(0, dtype=dispatch.weight_N.dtype)
    if down_bias_EO is not None:
        dweight_N += dot_with_bias(dy_TO, dispatch.token_N, down_bias_EO, tiles)
    live_N = torch.arange(len(dweight_N), device=dweight_N.device) < dispatch.bounds[-1]
    return torch.where(live_N, dweight_N, 0)


def _zeros(x_TD: Tensor, dispatch: Dispatch, weights: ExpertWeights, needs: Needs) -> Gradients:
    inputs = (x_TD, dispatch.weight_N, *weights)
    return Gradients(
        *(torch.zeros_like(tensor) if needed and tensor is not None else None for tensor, needed in zip(inputs, needs))
    )
