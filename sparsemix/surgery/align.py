"""Experts brought into line: the hidden units of an MLP may be in any order, and averages need the same one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sparsemix.checks import require
from sparsemix.kernels import at_least_float32


class Stacks(NamedTuple):
    """The tensors of stacked experts; gated ones have the rows of the gate before those of the up projection."""

    up_EGD: Tensor
    down_EDF: Tensor
    up_bias_EG: Tensor | None = None
    down_bias_ED: Tensor | None = None

    @property
    def sides(self) -> int:
        """Rows of the up matrix that make a hidden unit: 2 with a gate."""
        return self.up_EGD.shape[1] // self.down_EDF.shape[2]


def aligned_order(stacks: Stacks, expert: int, like: int) -> Tensor:
    """The order of an expert's hidden units in which they are most like those of another, unit by unit; (F,).

    Of all orders it has the largest sum of <u_i, v_i>, with u and v the weights into and out of unit i of either; that
    is the least distance of all weights.

    Source: weight matching of Git Re-Basin (2209.04836) for one hidden layer, as in M-SMoE (2310.01334).
    """
    optimize = require("scipy.optimize", "to align experts")
    u_FA, v_FA = unit_weights(stacks, like), unit_weights(stacks, expert)
    order = optimize.linear_sum_assignment((u_FA @ v_FA.T).cpu().numpy(), maximize=True)[1]
    return torch.from_numpy(order).to(u_FA.device)


def unit_weights(stacks: Stacks, expert: int) -> Tensor:
    """All weights of each hidden unit of an expert, (F, A)."""
    up, down = stacks.up_EGD[expert], stacks.down_EDF[expert]
    columns = [*up.chunk(stacks.sides), down.T]
    if stacks.up_bias_EG is not None:
        columns += [bias[:, None] for bias in stacks.up_bias_EG[expert].chunk(stacks.sides)]
    weights_FA = torch.cat(columns, dim=1)
    return weights_FA.to(at_least_float32(weights_FA.dtype))


def reordered(stacks: Stacks, index: int, expert: int, order: Tensor) -> Tensor:
    """Tensor number `index` of an expert with its hidden units in another order: together, the same function."""
    tensor = stacks[index]
    assert tensor is not None
    match Stacks._fields[index]:
        case "up_EGD" | "up_bias_EG":
            return torch.cat([side[order] for side in tensor[expert].chunk(stacks.sides)])
        case "down_EDF":
            return tensor[expert][:, order]
        case _:
            return tensor[expert]


def averaged(
    stacks: Stacks, index: int, members: Sequence[int], shares: Sequence[float], orders: Sequence[Tensor]
) -> Tensor:
    """sum_e share_e W_e for tensor number `index` of experts whose hidden units are in these orders."""
    dtype = at_least_float32(stacks.up_EGD.dtype)
    terms = zip(members, shares, orders, strict=True)
    return sum(
        (share * reordered(stacks, index, expert, order).to(dtype) for expert, share, order in terms),
        start=torch.zeros((), dtype=dtype),
    )
