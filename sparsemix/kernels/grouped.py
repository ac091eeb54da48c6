"""A back end made of three grouped matrix products: all else around them is written here, once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from sparsemix.kernels.activations import Activation
from sparsemix.kernels.combine import gather_sum
from sparsemix.kernels.weights import ExpertWeights, Gradients, Needs
from sparsemix.routing import Dispatch


class Products(Protocol):
    """The grouped products over rows sorted by expert; what they leave in rows from bounds[E] on does not matter."""

    def matmul(self, x_ND: Tensor, w_EFD: Tensor, bounds: Tensor) -> Tensor:
        """y_n = W_e x_n for the rows n of expert e; (N, F)."""
        ...

    def input_grad(self, dy_NF: Tensor, w_EFD: Tensor, bounds: Tensor) -> Tensor:
        """dx_n = W_e^T dy_n for the rows n of expert e; (N, D)."""
        ...

    def weight_grad(self, dy_NF: Tensor, x_ND: Tensor, bounds: Tensor) -> Tensor:
        """dW_e = sum over the rows n of expert e of dy_n x_n^T; (E, F, D), zero for an expert without rows."""
        ...


class Grouped(NamedTuple):
    """The back end that these products make."""

    products: Products

    def forward(
        self, x_TD: Tensor, dispatch: Dispatch, weights: ExpertWeights, activation: Activation
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """(y_TO, (h_NG,)): the combined outputs, and the pre-activation to save."""
        bounds, w_N1 = dispatch.bounds, dispatch.weight_N[:, None].to(x_TD.dtype)
        h_NG = self.products.matmul(x_TD.index_select(0, dispatch.token_N), weights.up_EGD, bounds)
        if weights.up_bias_EG is not None:
            h_NG = h_NG + _spread(weights.up_bias_EG, dispatch)
        h_NG = _without_dead(h_NG, dispatch)
        y_NO = self.products.matmul(activation.forward(h_NG).mul_(w_N1), weights.down_EDF, bounds)
        if weights.down_bias_ED is not None:
            y_NO = y_NO + w_N1 * _spread(weights.down_bias_ED, dispatch)
        return gather_sum(_without_dead(y_NO, dispatch), dispatch, len(x_TD)), (h_NG,)

    def backward(
        self,
        dy_TO: Tensor,
        x_TD: Tensor,
        saved: Sequence[Tensor],
        dispatch: Dispatch,
        weights: ExpertWeights,
        activation: Activation,
        needs: Needs,
    ) -> Gradients:
        """The gradients asked for."""
        (h_NG,), bounds, wide = saved, dispatch.bounds, dispatch.weight_N.dtype
        w_N1 = dispatch.weight_N[:, None].to(x_TD.dtype)
        dy_NO = _without_dead(dy_TO.index_select(0, dispatch.token_N), dispatch)
        # The gradient of the weighted activation w a, from which those of w and a follow.
        dwa_NF = _without_dead(self.products.input_grad(dy_NO, weights.down_EDF, bounds), dispatch)
        a_NF, dh_NG = activation.recompute(h_NG, dwa_NF * w_N1)
        dw_N, found = dwa_NF.mul_(a_NF).sum(1, dtype=wide), Gradients()
        if needs.down_EDF:
            found = found._replace(down_EDF=self.products.weight_grad(dy_NO, a_NF.mul_(w_N1), bounds))
        if weights.down_bias_ED is not None:
            dw_N += (dy_NO * _spread(weights.down_bias_ED, dispatch)).sum(1, dtype=wide)
        if needs.down_bias_ED:
            found = found._replace(down_bias_ED=_gather_up(dy_NO * w_N1, dispatch))
        if needs.up_EGD:
            x_ND = x_TD.index_select(0, dispatch.token_N)
            found = found._replace(up_EGD=self.products.weight_grad(dh_NG, x_ND, bounds))
        if needs.up_bias_EG:
            found = found._replace(up_bias_EG=_gather_up(dh_NG, dispatch))
        if needs.x_TD:
            dx_ND = _without_dead(self.products.input_grad(dh_NG, weights.up_EGD, bounds), dispatch)
            found = found._replace(x_TD=gather_sum(dx_ND, dispatch, len(x_TD)))
        return found._replace(weight_N=dw_N)


def _without_dead(rows: Tensor, dispatch: Dispatch) -> Tensor:
    """Zeros in dead rows, where fresh memory may hold NaN; without asking the device how many there are."""
    if dispatch.all_live:
        return rows
    live_N = torch.arange(len(rows), device=rows.device) < dispatch.bounds[-1]
    return torch.where(live_N[:, None], rows, 0)


def expert_of_row(dispatch: Dispatch) -> Tensor:
    """int64 (N,); dead rows count as the last expert's."""
    rows = torch.arange(len(dispatch.token_N), device=dispatch.bounds.device, dtype=dispatch.bounds.dtype)
    return torch.searchsorted(dispatch.bounds[1:-1], rows, right=True)


def _spread(bias_EG: Tensor, dispatch: Dispatch) -> Tensor:
    """Each row's own bias, (N, G)."""
    return bias_EG.index_select(0, expert_of_row(dispatch))


def _gather_up(rows_NG: Tensor, dispatch: Dispatch) -> Tensor:
    """Sum over the rows of each expert, (E, G); not by atomics, so that it is the same from run to run."""
    return torch.segment_reduce(
        _without_dead(rows_NG, dispatch), "sum", offsets=dispatch.bounds.long(), axis=0, unsafe=True, initial=0
    )
