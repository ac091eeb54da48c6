"""Rows of heads that rotary embedding turns in pairs: half of them apart, as here, or side by side, as elsewhere."""

from __future__ import annotations

import torch
from torch import Tensor


def side_by_side(rows: Tensor, head: int, turning: int) -> Tensor:
    """The last `turning` rows of every `head` rows, which come with pairs half of them apart, pair by pair."""
    return _with_turning(rows, head, turning, (2, -1))


def half_apart(rows: Tensor, head: int, turning: int) -> Tensor:
    """What `side_by_side` undoes."""
    return _with_turning(rows, head, turning, (-1, 2))


def _with_turning(rows: Tensor, head: int, turning: int, grid: tuple[int, int]) -> Tensor:
    """The turning rows of each head, laid out as a grid, read along its other axis."""
    heads = rows.unflatten(0, (-1, head))
    still, turned = heads.split([head - turning, turning], dim=1)
    turned = turned.unflatten(1, grid).transpose(1, 2).flatten(1, 2)
    return torch.cat([still, turned], dim=1).flatten(0, 1)
