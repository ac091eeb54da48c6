"""Information criteria: likelihoods less what parameters are worth, the lower the better."""

from __future__ import annotations

import numpy as np

from sparsemix.classic.parts import Array


def bic(n_parameters: float, log_density_N: Array, weight_N: Array) -> float:
    """parameters * log(sum_n w_n) - 2 sum_n w_n log p(y_n | x_n): a weight of 2 counts as two rows.

    Source: Schwarz, "Estimating the dimension of a model" (1978).
    """
    return float(n_parameters * np.log(weight_N.sum()) - 2 * weight_N @ log_density_N)


def aic(n_parameters: float, log_density_N: Array, weight_N: Array) -> float:
    """2 parameters - 2 sum_n w_n log p(y_n | x_n).

    Source: Akaike, "A new look at the statistical model identification" (1974).
    """
    return float(2 * n_parameters - 2 * weight_N @ log_density_N)
