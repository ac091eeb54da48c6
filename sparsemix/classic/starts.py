"""Where EM starts: responsibilities made of the table, without a fit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import softmax

from sparsemix.classic.parts import Array, Table

Start = Callable[[Table, int, np.random.RandomState], Array]


def random(table: Table, n_experts: int, random: np.random.RandomState) -> Array:
    """Responsibilities drawn evenly from all that sum to one (Dirichlet with concentration 1)."""
    return random.dirichlet(np.ones(n_experts), size=len(table.weight_N))


def principal(table: Table, n_experts: int, random: np.random.RandomState) -> Array:
    """Soft slices along the first principal direction of the standardised columns and targets."""
    y_NM = table.y if table.num_classes is None else np.eye(table.num_classes)[table.y]
    z_ND = np.column_stack([table.X, y_NM])
    z_ND = z_ND - table.weight_N @ z_ND / table.weight_N.sum()
    deviation_D = np.sqrt(table.weight_N @ z_ND**2 / table.weight_N.sum())
    z_ND = z_ND / np.where(deviation_D > 0, deviation_D, 1.0)
    vectors = np.linalg.eigh((z_ND * table.weight_N[:, None]).T @ z_ND)[1]
    place_N = z_ND @ vectors[:, -1]
    place_N = place_N / np.sqrt(table.weight_N @ place_N**2 / table.weight_N.sum())
    centre_E = np.linspace(-1.5, 1.5, n_experts)
    return softmax(-2 * (place_N[:, None] - centre_E) ** 2, axis=1)


STARTS: dict[str, Start] = {"principal": principal, "random": random}
