"""Extrapolation of EM: where its responsibilities are heading, from three iterations in a row."""

from __future__ import annotations

import numpy as np

from sparsemix.classic.parts import Array

NOTHING = -700.0
"""Log-odds under which an expert has no share in float64: differences below say nothing."""

EDGE = 1e-6
"""So that a length that is a power of 2 but for rounding counts as one."""


def extrapolated(log_NE: list[Array], weight_NE: Array, longest: float) -> tuple[Array, float]:
    """Log-responsibilities, up to a constant in each row, that a squared step of EM leads to, and the step's length.

    With r = log_1 - log_0 and v = log_2 - 2 log_1 + log_0 it is log_0 + 2 a r + a^2 v; its length a = ||r|| / ||v||
    is rounded down to a power of 2, between 1 (which leads to log_2) and `longest`: a quotient of small differences
    would carry rounding into all that follows. Steps are taken in log-responsibilities, since any experts
    and gates have these, and measured in the Fisher metric of the responsibilities, in which rows that are sure of
    their expert do not count.

    Args:
        log_NE: log p(y, e | x) of three iterations in a row, each row up to a constant.
        weight_NE: sample weight times responsibility of the last of them.

    Source: Varadhan & Roland, "Simple and globally convergent methods for accelerating the convergence of any EM
    algorithm" (2008), scheme S3; there on parameters.
    """
    start_NE, middle_NE, end_NE = map(_odds, log_NE)
    first_NE = middle_NE - start_NE
    second_NE = end_NE - middle_NE - first_NE
    curved = _length(second_NE, weight_NE)
    length = _length(first_NE, weight_NE) / curved if curved > 0 else 1.0
    length = 2.0 ** np.floor(np.log2(min(max(length, 1.0), longest)) + EDGE)
    return start_NE + 2 * length * first_NE + length**2 * second_NE, length


def _odds(log_NE: Array) -> Array:
    return np.maximum(log_NE - log_NE.max(axis=1, keepdims=True), NOTHING)


def _length(step_NE: Array, weight_NE: Array) -> float:
    """Square root of the weighted sum over rows of the variance of the step under the responsibilities."""
    total_N = weight_NE.sum(axis=1)
    mean_N = (weight_NE * step_NE).sum(axis=1) / np.where(total_N > 0, total_N, 1.0)
    variance = float((weight_NE * step_NE**2).sum() - total_N @ mean_N**2)
    return float(np.sqrt(max(variance, 0.0)))
