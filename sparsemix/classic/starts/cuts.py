"""Ways to cut a part of a table in two: across a direction of its columns, or by its residuals."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sparsemix.classic.parts import Array
from sparsemix.classic.starts.moments import Part
from sparsemix.classic.starts.seen import blocks

PLACES = (0.0, -0.6, 0.6, -1.2, 1.2)
"""Where directions are cut, in standard deviations from their mean in the part."""
EDGE = 0.5
"""Width of the soft edge of a cut, in standard deviations."""
OUTPUTS = 3
"""Outputs whose residuals are looked at for directions, at most."""


class Cuts(NamedTuple):
    """C cuts: the upper side's share of a row is edge(u v), or edge(u v r_m) where the cut is by a residual."""

    vector_DC: Array
    output_C: Array
    """m, or -1 for cuts that the columns alone decide, as a gate can."""

    def shares(self, u_ND: Array, residual_NM: Array) -> Array:
        """The share of the upper side, (N, C)."""
        place_NC = u_ND @ self.vector_DC
        by_residual_C = np.flatnonzero(self.output_C >= 0)
        place_NC[:, by_residual_C] *= residual_NM[:, self.output_C[by_residual_C]]
        return edge(place_NC)

    def chosen(self, chosen_C: Array) -> Cuts:
        """Some of the cuts."""
        return Cuts(self.vector_DC[:, chosen_C], self.output_C[chosen_C])


def edge(place: Array) -> Array:
    """0 below -1/2, 1 above 1/2, smooth between; zero, not little, far away: parts have no rows far from them."""
    t = np.clip(place + 0.5, 0.0, 1.0)
    return np.minimum(t * t * t * (t * (6 * t - 15) + 10), 1.0)  # rounding passes 1, and shares below 0 have no root


class Directions(NamedTuple):
    """Cuts across directions, and the slopes by which a cut of each output's residual goes."""

    cuts: Cuts
    slope_MDS: Array


def directions(part: Part) -> Directions:
    """Cuts across columns and across the directions of `hessians`.

    A law that changes across v, say r = sign(v z) (b z), makes E[r z z^T] of rank two in the span of v and b
    (principal Hessian directions); of eigenvalues a > 0 > -c, v and b are sqrt(a) e_1 +- sqrt(c) e_2. Laws that z does
    not tell apart, r = +- b z, show b in E[r^2 z z^T].

    Source: Li, "On principal Hessian directions for data visualization and dimension reduction" (1992).
    """
    features = part.u_ND.shape[1] - 1
    across, steepest = [np.eye(features)], []
    for bent_DD, spread_DD in hessians(part):
        values, vectors = np.linalg.eigh(bent_DD)
        low_D = vectors[:, :1] * np.sqrt(max(-values[0], 0.0))
        high_D = vectors[:, -1:] * np.sqrt(max(values[-1], 0.0))
        strongest_D = low_D if -values[0] > values[-1] else high_D
        steepest.append(np.linalg.eigh(spread_DD)[1][:, -1:])
        across += [strongest_D, high_D + low_D, high_D - low_D, steepest[-1]]
    vector_DQ = standard(part, np.hstack(across))
    constant = np.append(1.0, np.zeros(features))[:, None]
    vector_DC = np.hstack([vector_DQ - place * constant for place in PLACES]) / EDGE
    slopes = [np.hstack([constant, standard(part, vector_DQ)]) for vector_DQ in steepest]
    return Directions(Cuts(vector_DC, np.full(vector_DC.shape[1], -1)), np.stack(slopes))


def by_residual(found: Directions) -> Cuts:
    """Cuts by the sign of a residual, and of its product with the steepest slope: for laws z does not tell apart."""
    outputs, _, slopes = found.slope_MDS.shape
    return Cuts(np.hstack(list(found.slope_MDS)) / EDGE, np.repeat(np.arange(outputs), slopes))


def standard(part: Part, vector_DQ: Array) -> Array:
    """[constant, vector] such that u @ it has mean 0 and standard deviation 1 in the part; a sign of its own."""
    sign_Q = np.sign(np.take_along_axis(vector_DQ, np.abs(vector_DQ).argmax(axis=0)[None], axis=0))
    features = part.u_ND.shape[1]
    mean_D = part.moment_FF[0, 1:features] / part.total
    covariance_DD = part.moment_FF[1:features, 1:features] / part.total - np.outer(mean_D, mean_D)
    variance_Q = np.einsum("dq,de,eq->q", vector_DQ, covariance_DD, vector_DQ)
    length_Q = np.einsum("dq,dq->q", vector_DQ, vector_DQ)
    varies_Q = variance_Q > 1e-9 * length_Q
    scale_Q = np.where(varies_Q, 1 / np.sqrt(np.where(varies_Q, variance_Q, 1.0)), 0.0)
    vector_DQ = vector_DQ * sign_Q * scale_Q
    return np.vstack([-mean_D @ vector_DQ, vector_DQ])


def hessians(part: Part) -> list[tuple[Array, Array]]:
    """E[r z z^T] and E[(r^2 - 1) z z^T] of the first outputs' residuals, z centred in the part."""
    outputs = min(part.t_NM.shape[1], OUTPUTS)
    features = part.u_ND.shape[1] - 1
    mean_D = part.moment_FF[0, 1 : features + 1] / part.total
    moment_MDD = np.zeros((outputs, 2, features, features))
    for rows in blocks(len(part.row_N)):
        z_ND = part.u_ND[rows, 1:] - mean_D
        for output in range(outputs):
            r_N = part.residual_NM[rows, output]
            for power, told_N in enumerate((r_N, r_N * r_N - 1)):
                moment_MDD[output, power] += (z_ND * (part.weight_N[rows] * told_N)[:, None]).T @ z_ND
    return [(bent_DD, spread_DD) for bent_DD, spread_DD in moment_MDD / part.total]
