"""Extrapolation of EM: where its responsibilities are heading, from three iterations in a row."""

from __future__ import annotations

import numpy as np

from sparsemix.classic.parts import Array

NOTHING = -700.0
"""Log-odds under which an expert has no share in float64: differences below say nothing."""

EDGE = 1e-6
"""So that a length that is a power of 2 but for rounding counts as one."""

BLOCK = 1 << 16
"""Numbers in a block: what is made on the way stays in the cache, and memory is that of the result."""


def extrapolated(log_NE: list[Array], weight_NE: Array, longest: float) -> Array:
    """Log-responsibilities, up to a constant in each row, that a squared step of EM leads to.

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
    rows, experts = weight_NE.shape
    size = max(1, BLOCK // experts)
    blocks = [slice(first, first + size) for first in range(0, rows, size)]
    straight = curved = 0.0
    for block in blocks:
        _, first_BE, second_BE = _differences(log_NE, block)
        straight += _variance(first_BE, weight_NE[block])
        curved += _variance(second_BE, weight_NE[block])
    length = np.sqrt(straight / curved) if curved > 0 else 1.0
    length = 2.0 ** np.floor(np.log2(min(max(length, 1.0), longest)) + EDGE)
    leap_NE = np.empty((rows, experts))
    for block in blocks:
        start_BE, first_BE, second_BE = _differences(log_NE, block)
        leap_NE[block] = start_BE + 2 * length * first_BE + length**2 * second_BE
    return leap_NE


def _differences(log_NE: list[Array], block: slice) -> tuple[Array, Array, Array]:
    """log_0, r and v of some rows, as log-odds to the expert that has most of the row."""
    start_BE, middle_BE, end_BE = (_odds(each_NE[block]) for each_NE in log_NE)
    first_BE = middle_BE - start_BE
    return start_BE, first_BE, end_BE - middle_BE - first_BE


def _odds(log_BE: Array) -> Array:
    return np.maximum(log_BE - log_BE.max(axis=1, keepdims=True), NOTHING)


def _variance(step_BE: Array, weight_BE: Array) -> float:
    """Weighted sum over rows of the variance of the step under the responsibilities."""
    total_B = weight_BE.sum(axis=1)
    mean_B = (weight_BE * step_BE).sum(axis=1) / np.where(total_B > 0, total_B, 1.0)
    return max(float((weight_BE * step_BE**2).sum() - total_B @ mean_B**2), 0.0)
