"""Experts written out one edge at a time. Imports nothing of the package."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from references import activation, clamped, sigmoid
from torch import Tensor

Function = Callable[[Tensor], Tensor]


def weighted_sums(x: Tensor, edges: Sequence[tuple[int, int, Tensor]], functions: Sequence[Function]) -> Tensor:
    """y_t = sum of w f_e(x_t) over the edges (t, e, w); what f makes of zeros tells the shape of an item's y."""
    with torch.no_grad():
        shape = functions[0](torch.zeros_like(x[0])).shape if len(x) else x.shape[1:]
    rows = [x.new_zeros(shape) for _ in x]
    for t, e, weight in edges:
        rows[t] = rows[t] + weight * functions[e](x[t])
    return torch.stack(rows) if rows else x.new_zeros(0, *shape)


def glu(x_D: Tensor, gate_up_GD: Tensor, down_DF: Tensor, name: str, up_bias: Tensor, down_bias: Tensor) -> Tensor:
    gate_F, up_F = (gate_up_GD @ x_D + up_bias).chunk(2)
    return down_DF @ (activation(name, gate_F) * up_F) + down_bias


def clamped_glu(
    x_D: Tensor,
    gate_up_GD: Tensor,
    down_DF: Tensor,
    limit: float,
    alpha: float,
    up_bias: Tensor | float = 0.0,
    down_bias: Tensor | float = 0.0,
) -> Tensor:
    gate_F, up_F = (gate_up_GD @ x_D + up_bias).chunk(2)
    return down_DF @ clamped(gate_F, up_F, limit, alpha) + down_bias


def lstm(x_SD: Tensor, w_GD: Tensor, u_GH: Tensor, w_bias: Tensor, u_bias: Tensor, output_DH: Tensor) -> Tensor:
    """Gates in the order input, forget, cell, output."""
    h, c, rows = x_SD.new_zeros(u_GH.shape[1]), x_SD.new_zeros(u_GH.shape[1]), []
    for x_D in x_SD:
        i, f, g, o = (w_GD @ x_D + w_bias + u_GH @ h + u_bias).chunk(4)
        c = sigmoid(f) * c + sigmoid(i) * torch.tanh(g)
        h = sigmoid(o) * torch.tanh(c)
        rows.append(output_DH @ h)
    return torch.stack(rows)
