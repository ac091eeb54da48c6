"""Starts that are drawn."""

from __future__ import annotations

import numpy as np
from scipy.special import softmax

from sparsemix.classic.parts import Array, Table
from sparsemix.classic.starts.seen import seen


def random(table: Table, n_experts: int, random: np.random.RandomState) -> Array:
    """Responsibilities drawn evenly from all that sum to one (Dirichlet with concentration 1)."""
    return random.dirichlet(np.ones(n_experts), size=len(table.weight_N))


def cells(table: Table, n_experts: int, random: np.random.RandomState) -> Array:
    """Soft cells around rows drawn by their weight, in standardised columns and targets.

    Unlike `random`, whose experts see nearly the same rows when there are many, these differ from the beginning.
    """
    rows = seen(table)
    v_NV = np.column_stack([rows.z_ND, rows.t_NM])
    drawn_E = random.choice(len(v_NV), size=n_experts, p=table.weight_N / table.weight_N.sum())
    square_N = (v_NV**2).sum(axis=1)
    distance_NE = square_N[:, None] + square_N[drawn_E] - 2 * v_NV @ v_NV[drawn_E].T
    return softmax(-2.0 * distance_NE / v_NV.shape[1], axis=1)
