"""How rows are given to experts after the E step: softly, to the best one, or to one that is drawn."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from scipy.special import logsumexp, softmax

from sparsemix.classic.parts import Array


class Assign(Protocol):
    """One variant of EM."""

    def evidence(self, log_joint_NE: Array) -> Array:
        """What EM raises for each row, (N,)."""
        ...

    def responsibilities(self, log_joint_NE: Array) -> Array:
        """The share of each expert in each row, (N, E); rows sum to one."""
        ...


class Soft:
    """EM: h_e = p(e | x, y). Raises the log-likelihood."""

    def evidence(self, log_joint_NE: Array) -> Array:
        return logsumexp(log_joint_NE, axis=1)

    def responsibilities(self, log_joint_NE: Array) -> Array:
        return softmax(log_joint_NE, axis=1)


class Hard:
    """Classification EM: each row belongs to its most probable expert. Raises the classification likelihood.

    Source: Celeux & Govaert, "A classification EM algorithm for clustering and two stochastic versions" (1992).
    """

    def evidence(self, log_joint_NE: Array) -> Array:
        return log_joint_NE.max(axis=1)

    def responsibilities(self, log_joint_NE: Array) -> Array:
        return np.eye(log_joint_NE.shape[1])[log_joint_NE.argmax(axis=1)]


class Stochastic:
    """Stochastic EM: each row belongs to one expert, drawn from p(e | x, y). Wanders, and may leave a poor maximum.

    Source: Celeux & Diebolt, "The SEM algorithm" (1985).
    """

    def __init__(self, random: np.random.RandomState) -> None:
        self.random = random

    def evidence(self, log_joint_NE: Array) -> Array:
        return logsumexp(log_joint_NE, axis=1)

    def responsibilities(self, log_joint_NE: Array) -> Array:
        gumbel_NE = self.random.gumbel(size=log_joint_NE.shape)
        return np.eye(log_joint_NE.shape[1])[(log_joint_NE + gumbel_NE).argmax(axis=1)]
