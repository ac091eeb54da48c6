"""Covariances of the experts of a Gaussian gate, full or diagonal: what the gate asks of either."""

from __future__ import annotations

from typing import NamedTuple, Protocol, Self

import numpy as np
from scipy.linalg import solve_triangular

from sparsemix.classic.numeric.columns import Columns
from sparsemix.classic.parts import Array


class Moments(NamedTuple):
    """Weighted sums over the rows of each expert: all that the M step needs."""

    weight_E: Array
    sum_ED: Array
    square: Array
    """Of z z^T, (E, D, D), or of z^2, (E, D)."""

    def after(self, past: Moments, keep: float) -> Moments:
        """These and those before, times `keep`."""
        return Moments(*(keep * before + now for before, now in zip(past, self, strict=True)))

    def only(self, keep_E: Array) -> Moments:
        """Of some experts."""
        return Moments(*(sums[keep_E] for sums in self))


class Covariance(Protocol):
    """Sigma_e of E experts."""

    @staticmethod
    def squares(weight_EB: Array, z_BD: Array) -> Array:
        """`Moments.square` of some rows."""
        ...

    @classmethod
    def fitted(cls, moments: Moments, mean_ED: Array, alpha: float) -> Self:
        """(scatter_e + alpha I) / (n_e + alpha)."""
        ...

    def distances(self, mean_ED: Array, z: Columns) -> Array:
        """(z_n - mu_e)^T Sigma_e^-1 (z_n - mu_e), (N, E)."""
        ...

    @property
    def log_determinant_E(self) -> Array:
        """log |Sigma_e|."""
        ...

    @property
    def inverse_trace(self) -> float:
        """sum_e tr Sigma_e^-1."""
        ...

    @property
    def n_parameters(self) -> int:
        """Free entries of all."""
        ...

    def only(self, keep_E: Array) -> Self:
        """Of some experts."""
        ...


class Full(NamedTuple):
    """Any covariances."""

    value_EDD: Array

    @staticmethod
    def squares(weight_EB: Array, z_BD: Array) -> Array:
        return np.matmul(weight_EB[:, None] * z_BD.T, z_BD)

    @classmethod
    def fitted(cls, moments: Moments, mean_ED: Array, alpha: float) -> Self:
        weight_E11 = moments.weight_E[:, None, None]
        scatter_EDD = moments.square - weight_E11 * mean_ED[:, :, None] * mean_ED[:, None]
        return cls((scatter_EDD + alpha * np.eye(mean_ED.shape[1])) / (weight_E11 + alpha))

    def distances(self, mean_ED: Array, z: Columns) -> Array:
        eye_DD = np.eye(mean_ED.shape[1])
        white_EDD = [solve_triangular(root_DD, eye_DD, lower=True) for root_DD in np.linalg.cholesky(self.value_EDD)]
        out_EN = np.empty((len(mean_ED), z.shape[0]))
        for block, z_BD in z.blocks():
            for expert, white_DD in enumerate(white_EDD):
                white_DB = white_DD @ (z_BD - mean_ED[expert]).T
                out_EN[expert, block] = np.einsum("db,db->b", white_DB, white_DB)
        return out_EN.T

    @property
    def log_determinant_E(self) -> Array:
        return np.linalg.slogdet(self.value_EDD)[1]

    @property
    def inverse_trace(self) -> float:
        return float(np.trace(np.linalg.inv(self.value_EDD), axis1=1, axis2=2).sum())

    @property
    def n_parameters(self) -> int:
        experts, features = self.value_EDD.shape[:2]
        return experts * features * (features + 1) // 2

    def only(self, keep_E: Array) -> Self:
        return self._replace(value_EDD=self.value_EDD[keep_E])


class Diagonal(NamedTuple):
    """Columns that are independent within an expert."""

    value_ED: Array

    @staticmethod
    def squares(weight_EB: Array, z_BD: Array) -> Array:
        return weight_EB @ z_BD**2

    @classmethod
    def fitted(cls, moments: Moments, mean_ED: Array, alpha: float) -> Self:
        weight_E1 = moments.weight_E[:, None]
        scatter_ED = np.maximum(moments.square - weight_E1 * mean_ED**2, 0.0)
        return cls((scatter_ED + alpha) / (weight_E1 + alpha))

    def distances(self, mean_ED: Array, z: Columns) -> Array:
        out_EN = np.empty((len(mean_ED), z.shape[0]))
        for block, z_BD in z.blocks():
            for expert, (mean_D, variance_D) in enumerate(zip(mean_ED, self.value_ED, strict=True)):
                out_EN[expert, block] = (z_BD - mean_D) ** 2 @ (1 / variance_D)
        return out_EN.T

    @property
    def log_determinant_E(self) -> Array:
        return np.log(self.value_ED).sum(axis=1)

    @property
    def inverse_trace(self) -> float:
        return float((1 / self.value_ED).sum())

    @property
    def n_parameters(self) -> int:
        return self.value_ED.size

    def only(self, keep_E: Array) -> Self:
        return self._replace(value_ED=self.value_ED[keep_E])
