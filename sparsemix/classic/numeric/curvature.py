"""The second derivatives of a multinomial log-likelihood, as one matrix for each pair of classes.

With C_ab = sum_n w_n p_na p_nb z_n z_n^T, the block of classes a and b is C_ab, and that of a with itself
-sum_{b != a} C_ab: the Laplacian of a graph. So only pairs a < b are summed, and nothing cancels where
p is near 0 or 1.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from sparsemix.classic.parts import Array

FEW_PAIRS = 6
"""Up to so many pairs of classes, a product of matrices for each is faster than one of all pairs of columns."""
BLOCK = 1 << 17


def rows_in_block(classes: int, features: int) -> int:
    """Rows whose products of columns stay in the cache of a core."""
    many = classes * (classes - 1) // 2 > FEW_PAIRS
    return int(np.clip(BLOCK // (features * (features + 1) // 2 if many else features), 128, 1024))


@lru_cache(maxsize=16)
def _pairs(size: int, above: int) -> tuple[Array, Array]:
    """Indexes on or above the diagonal; made anew for each step they cost more than the step of a small table."""
    return np.triu_indices(size, above)


class PairSums:
    """Sums C_ab of a pass over blocks of rows."""

    def __init__(self, classes: int, features: int) -> None:
        self.first_P, self.second_P = _pairs(classes, 1)
        self.left_Q, self.right_Q = _pairs(features, 0)
        self.classes, self.features = classes, features
        pairs = len(self.first_P)
        self.sums = np.zeros((pairs, features, features) if pairs <= FEW_PAIRS else (pairs, len(self.left_Q)))

    def add(self, weight_B: Array, p_KB: Array, z_DB: Array) -> None:
        """Add the sums of some rows."""
        weight_PB = p_KB[self.first_P] * p_KB[self.second_P] * weight_B
        if self.sums.ndim == 3:
            for pair, weight_B in enumerate(weight_PB):
                self.sums[pair] += (z_DB * weight_B) @ z_DB.T
        else:
            products_QB = z_DB[self.left_Q]
            products_QB *= z_DB[self.right_Q]
            self.sums += weight_PB @ products_QB.T

    def result(self) -> Array:
        """C, (K, K, D, D), 0 for a = b."""
        pair_PDD = self.sums
        if self.sums.ndim == 2:
            pair_PDD = np.empty((len(self.sums), self.features, self.features))
            pair_PDD[:, self.left_Q, self.right_Q] = self.sums
            pair_PDD[:, self.right_Q, self.left_Q] = self.sums
        out = np.zeros((self.classes, self.classes, self.features, self.features))
        out[self.first_P, self.second_P] = out[self.second_P, self.first_P] = pair_PDD
        return out


def solved(pair_KKDD: Array, ridge_D: Array, gradient_KD: Array) -> Array:
    """The step (K, D), summing to 0 over classes, to the maximum of the quadratic model of likelihood and ridge.

    Adding the same to all classes changes nothing, so the last class is held; what rounding may take from the matrix
    is put back on its diagonal, so that directions without information get a step all the same, a finite one. Sums
    of many rows round more than once: the diagonal grows until the matrix has a factor.
    """
    classes, free, features = len(pair_KKDD), len(pair_KKDD) - 1, gradient_KD.shape[1]
    hessian = -pair_KKDD[:free, :free].transpose(0, 2, 1, 3)
    for a in range(free):
        hessian[a, :, a] = pair_KKDD[a].sum(axis=0)
    each_D = np.arange(features)
    hessian[:, each_D, :, each_D] += ridge_D[:, None, None] * (np.eye(free) - 1 / classes)
    matrix = hessian.reshape(free * features, -1)
    step = cho_solve(_factor(matrix), gradient_KD[:free].ravel())
    return centred(np.vstack([step.reshape(free, features), np.zeros(features)]))


def _factor(matrix: Array) -> tuple[Array, bool]:
    diagonal = np.einsum("ii->i", matrix)
    more = np.finfo(float).eps * len(matrix) * diagonal.sum() + np.finfo(float).tiny
    while True:
        diagonal += more
        try:
            return cho_factor(matrix, lower=True)
        except LinAlgError:
            more *= 8


def applied(pair_KKDD: Array, step_KD: Array) -> Array:
    """The negative second derivatives times a step, (K, D): sum_b C_ab (step_a - step_b)."""
    return np.einsum("abij,abj->ai", pair_KKDD, step_KD[:, None] - step_KD)


def centred(value_KD: Array) -> Array:
    """Less the mean over classes, which a softmax does not see."""
    return value_KD - value_KD.mean(axis=0)
