"""What cuts gain: by a cheap score test of all, by linear fits of the best."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.linalg import solve_triangular
from scipy.special import entr

from sparsemix.classic.parts import Array
from sparsemix.classic.starts.cuts import Cuts, by_residual, directions
from sparsemix.classic.starts.moments import FLOOR, RIDGE, Part, fits, moments, part
from sparsemix.classic.starts.seen import Seen, blocks

MEASURED = 16
"""Cuts across directions that are fitted, of those that the score test finds best."""


LEAST = 0.01
"""Taken from the shares that a cut is sought with, so that rows with hardly any cost no time."""


class Split(NamedTuple):
    """The best cut of one kind of a part."""

    gain: float
    """Log-likelihood of two linear laws over that of one, in nats."""
    lower_N: Array
    upper_N: Array
    """Shares of all rows."""


def best_splits(rows: Seen, share_N: Array) -> list[Split]:
    """The best cut of a part across a direction, and by residuals; halves where there is nothing to cut."""
    if not rows.weight_N @ np.maximum(share_N - LEAST, 0.0) > 0:
        return [Split(-np.inf, share_N / 2, share_N / 2)] * (1 if rows.classes else 2)
    whole = part(rows, np.maximum(share_N - LEAST, 0.0))
    found = directions(whole)
    score_C = scores(whole, found.cuts)
    kinds = [found.cuts.chosen(np.sort(np.argsort(-score_C, kind="stable")[:MEASURED]))]
    if not rows.classes:
        kinds.append(by_residual(found))
    return [_best(whole, cuts, share_N) for cuts in kinds]


def first_best(gain_C: Array, total: float) -> int:
    """The first that is best up to rounding, so that equal ones (columns given twice) are always decided alike."""
    return int(np.argmax(gain_C >= gain_C.max() - 1e-9 * total))


def _best(whole: Part, cuts: Cuts, share_N: Array) -> Split:
    gain_C = gains(whole, cuts)
    best = first_best(gain_C, whole.total)
    upper_N = np.zeros_like(share_N)
    upper_N[whole.row_N] = cuts.chosen(np.array([best])).shares(whole.u_ND, whole.residual_NM)[:, 0]
    return Split(float(gain_C[best]), share_N * (1 - upper_N), share_N * upper_N)


def scores(whole: Part, cuts: Cuts) -> Array:
    """Gain in nats of a cut across a direction, to second order: the score test of laws that differ on its sides.

    Source: Zeileis, Hothorn & Hornik, "Model-based recursive partitioning" (2008), on fluctuations of scores.
    """
    features, outputs = whole.u_ND.shape[1], whole.t_NM.shape[1]
    score_MDC = np.zeros((outputs, features, cuts.vector_DC.shape[1]))
    spread_MC, upper_C = np.zeros((outputs, score_MDC.shape[2])), np.zeros(score_MDC.shape[2])
    for rows in blocks(len(whole.row_N)):
        u_ND, r_NM = whole.u_ND[rows], whole.residual_NM[rows]
        share_NC = cuts.shares(u_ND, r_NM) * whole.weight_N[rows, None]
        upper_C += share_NC.sum(axis=0)
        spread_MC += (r_NM**2 - 1).T @ share_NC
        for output in range(outputs):
            score_MDC[output] += (u_ND * r_NM[:, output, None]).T @ share_NC
    moment_DD = whole.moment_FF[:features, :features] / whole.total
    root_DD = np.linalg.cholesky(moment_DD + np.diag(np.full(features, RIDGE / whole.total)))
    white_MDC = np.stack([solve_triangular(root_DD, score_DC, lower=True) for score_DC in score_MDC])
    twice_C = (white_MDC**2).sum(axis=(0, 1)) + (0.0 if whole.classes else (spread_MC**2).sum(axis=0) / 2)
    return twice_C / (2 * (upper_C * (1 - upper_C / whole.total) + features))


def gains(whole: Part, cuts: Cuts) -> Array:
    """Gain in nats of two linear fits over one; a cut by residuals, which no gate can know, pays its entropy.

    The variance of a side is drawn to that of the whole by as many rows as a fit has coefficients, so that a side with
    few rows gains nothing by going through them.
    """
    outputs, features = whole.t_NM.shape[1], whole.u_ND.shape[1]
    share_NC = cuts.shares(whole.u_ND, whole.residual_NM) * whole.weight_N[:, None]
    upper_CFF = moments(whole.u_ND, whole.t_NM, share_NC)
    lower_CFF = whole.moment_FF - upper_CFF
    total_SC = np.stack([lower_CFF[:, 0, 0], upper_CFF[:, 0, 0]])
    squares_SCM = np.stack([fits(moment_CFF, outputs)[1] for moment_CFF in (lower_CFF, upper_CFF)])
    if whole.classes:
        pooled_C = (squares_SCM.sum(axis=(0, 2)) + 2 * features * whole.variance_M.sum()) / outputs
        pooled_C = np.maximum(pooled_C / (whole.total + 2 * features), FLOOR)
        return -0.5 * whole.total * outputs * np.log(pooled_C / whole.variance_M[0])
    drawn_SCM = squares_SCM + features * whole.variance_M
    ratio_SCM = np.maximum(drawn_SCM / (total_SC[:, :, None] + features), FLOOR) / whole.variance_M
    price_C = whole.total * entr(np.maximum(total_SC / whole.total, 0.0)).sum(axis=0)
    return -0.5 * (total_SC[:, :, None] * np.log(ratio_SCM)).sum(axis=(0, 2)) - price_C * (cuts.output_C >= 0)
