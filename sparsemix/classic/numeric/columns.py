"""Standardised columns that are made block by block, so that no table is copied whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from sparsemix.classic.parts import Array

BLOCK = 1 << 16
"""Numbers in a block, so that it stays in the cache of a core."""
CONSTANT = 1e-12
"""A deviation under this share of the mean is rounding: the column is constant."""


@dataclass(frozen=True)
class Columns:
    """N rows of D columns z = (x - mean) / scale; a missing value is at the mean. Of a fit to sparse x, mean is 0."""

    raw: Any
    """(N, D), float64 or float32, or CSR."""
    mean_D: Array
    scale_D: Array

    @property
    def shape(self) -> tuple[int, int]:
        """N and D."""
        return self.raw.shape

    def blocks(self, rows: int | None = None) -> Iterator[tuple[slice, Array]]:
        """The rows in float64, some at a time: which they are, and z, (rows, D)."""
        total, features = self.shape
        rows = rows or max(64, BLOCK // max(features, 1))
        for first in range(0, total, rows):
            block = slice(first, min(first + rows, total))
            yield block, self._standardised(self.raw[block])

    def _standardised(self, raw: Any) -> Array:
        z = (raw.toarray() if sparse.issparse(raw) else raw) - self.mean_D
        z /= self.scale_D
        missing = np.isnan(z)
        if missing.any():
            z[missing] = 0.0
        return z

    def products(self, coef_KD: Array) -> Iterator[tuple[slice, Array]]:
        """The rows, some at a time: which they are, and coef z, (K, rows)."""
        if not sparse.issparse(self.raw):
            for block, z_BD in self.blocks():
                yield block, coef_KD @ z_BD.T
            return
        total, rows = self.shape[0], max(64, BLOCK // len(coef_KD))
        scaled_DK = (coef_KD / self.scale_D).T
        for first in range(0, total, rows):
            block = slice(first, min(first + rows, total))
            yield block, np.ascontiguousarray((self.raw[block] @ scaled_DK - self.mean_D @ scaled_DK).T)

    def times(self, coef_KD: Array) -> Array:
        """z coef^T, (N, K) stored by columns, so that sums over k run over whole columns."""
        out_KN = np.empty((len(coef_KD), self.shape[0]))
        for block, product_KB in self.products(coef_KD):
            out_KN[:, block] = product_KB
        return out_KN.T

    def transposed_times(self, value_NK: Array) -> Array:
        """value^T z, (K, D)."""
        if sparse.issparse(self.raw):
            return ((self.raw.T @ value_NK).T - np.outer(value_NK.sum(axis=0), self.mean_D)) / self.scale_D
        out_KD = np.zeros((value_NK.shape[1], self.shape[1]))
        for block, z_BD in self.blocks():
            out_KD += value_NK[block].T @ z_BD
        return out_KD


def as_they_are(raw: Any) -> Columns:
    """Columns that are not moved, and not scaled."""
    return Columns(raw, np.zeros(raw.shape[1]), np.ones(raw.shape[1]))


def moments(raw: Any, weight_N: Array) -> tuple[Array, Array]:
    """Weighted mean and standard deviation of each column, (D,); of what is not missing, deviation 0 if constant."""
    share_N = weight_N / weight_N.sum()
    mean_D, deviation_D = _sparse_moments(raw, share_N) if sparse.issparse(raw) else _dense_moments(raw, share_N)
    return mean_D, np.where(deviation_D > CONSTANT * np.abs(mean_D), deviation_D, 0.0)


def _dense_moments(raw: Array, share_N: Array) -> tuple[Array, Array]:
    features = raw.shape[1]
    present_D, sum_D, bound_D = np.zeros(features), np.zeros(features), np.zeros(features)
    for block, x_BD in as_they_are(raw).blocks():
        present_D += share_N[block] @ ~np.isnan(raw[block])
        sum_D += share_N[block] @ x_BD
        bound_D = np.maximum(bound_D, np.abs(x_BD).max(axis=0, initial=0.0))
    mean_D = sum_D / np.where(present_D > 0, present_D, 1.0)
    bound_D = np.where(bound_D > 0, bound_D, 1.0)  # squares of huge numbers would overflow
    squares_D = np.zeros(features)
    for block, z_BD in Columns(raw, mean_D, bound_D).blocks():
        squares_D += share_N[block] @ z_BD**2
    return mean_D, bound_D * np.sqrt(squares_D)


def _sparse_moments(raw: Any, share_N: Array) -> tuple[Array, Array]:
    mean_D = share_N @ raw
    stored = sparse.csr_matrix((np.ones(raw.nnz), raw.indices, raw.indptr), shape=raw.shape)
    bound_D = np.asarray(abs(raw).max(axis=0).todense()).ravel().astype(np.float64)
    bound_D = np.where(bound_D > 0, bound_D, 1.0)
    squares = stored.copy()
    squares.data = ((raw.data - mean_D[raw.indices]) / bound_D[raw.indices]) ** 2
    absent_D = np.maximum(1 - share_N @ stored, 0.0)
    return mean_D, bound_D * np.sqrt(share_N @ squares + absent_D * (mean_D / bound_D) ** 2)
