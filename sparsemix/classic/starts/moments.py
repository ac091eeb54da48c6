"""Linear fits of soft parts of a table, from their moments."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sparsemix.classic.experts.moments import add_moments
from sparsemix.classic.parts import Array
from sparsemix.classic.starts.seen import Seen, blocks

RIDGE = 1.0
"""Weight of the pseudo-row that each standardised column adds to a linear fit."""
FLOOR = 1e-6
"""Least residual variance of a fit, as a share of the target's."""


class Part(NamedTuple):
    """The rows in which a part of the table has a share, and their linear fit."""

    row_N: Array
    weight_N: Array
    """Sample weight times the share."""
    u_ND: Array
    """[1, z]."""
    t_NM: Array
    moment_FF: Array
    """sum_n weight_n f_n f_n^T of f = [1, z, t]."""
    variance_M: Array
    """Of the residuals; of classes, one for all outputs: a class without rows in the part tells nothing."""
    residual_NM: Array
    """In standard deviations."""
    classes: bool

    @property
    def total(self) -> float:
        """The weight of the part."""
        return float(self.weight_N.sum())


def part(rows: Seen, share_N: Array) -> Part:
    """The part that has the given share of each row."""
    row_N = np.flatnonzero(share_N * rows.weight_N > 0)
    z_ND, t_NM = rows.z_ND[row_N], rows.t_NM[row_N]
    u_ND = np.column_stack([np.ones(len(row_N), dtype=z_ND.dtype), z_ND])
    weight_N = (share_N * rows.weight_N)[row_N]
    moment_FF = moments(u_ND, t_NM, weight_N[:, None])[0]
    coef_CDM, squares_CM = fits(moment_FF[None], t_NM.shape[1])
    variance_M = np.maximum(squares_CM[0] / weight_N.sum(), FLOOR)
    if rows.classes:
        variance_M = np.full_like(variance_M, variance_M.mean())
    residual_NM = (t_NM - u_ND @ coef_CDM[0]) / np.sqrt(variance_M)
    return Part(row_N, weight_N, u_ND, t_NM, moment_FF, variance_M, residual_NM, rows.classes)


def moments(u_ND: Array, t_NM: Array, weight_NC: Array) -> Array:
    """sum_n weight_nc f_n f_n^T of f = [1, z, t], (C, F, F), for several weights of the rows, in float64."""
    features = u_ND.shape[1] + t_NM.shape[1]
    moment_CFF = np.zeros((weight_NC.shape[1], features, features))
    for rows in blocks(len(u_ND)):
        add_moments(moment_CFF, np.column_stack([u_ND[rows], t_NM[rows]]), weight_NC[rows])
    return moment_CFF


def fits(moment_CFF: Array, outputs: int) -> tuple[Array, Array]:
    """Coefficients (C, D, M) and sums of squared residuals (C, M) of ridge fits to moments of [1, z, t]."""
    features = moment_CFF.shape[-1] - outputs
    ridge_D = np.append(1e-9, np.full(features - 1, RIDGE))
    across_CDM = moment_CFF[:, :features, features:]
    coef_CDM = np.linalg.solve(moment_CFF[:, :features, :features] + np.diag(ridge_D), across_CDM)
    total_CM = np.einsum("cmm->cm", moment_CFF[:, features:, features:])
    return coef_CDM, np.maximum(total_CM - (across_CDM * coef_CDM).sum(axis=1), 0.0)
