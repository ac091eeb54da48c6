"""How rows are given to experts after the E step: softly, to the best one, or to one that is drawn."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from sparsemix.classic.parts import Array


class Assigned(NamedTuple):
    """What an E step says."""

    evidence_N: Array
    """What EM raises for each row."""
    responsibility_NE: Array
    """The share of each expert in each row; rows sum to one."""


class Assign(Protocol):
    """One variant of EM."""

    @property
    def settles(self) -> bool:
        """Whether the same densities always give the same responsibilities, so that EM comes to rest."""
        ...

    def __call__(self, log_joint_NE: Array) -> Assigned:
        """Evidence and responsibilities from log p(y, e | x)."""
        ...


class Soft:
    """EM: h_e = p(e | x, y). Raises the log-likelihood."""

    settles = True

    def __call__(self, log_joint_NE: Array) -> Assigned:
        best_N = log_joint_NE.max(axis=1)
        share_NE = np.exp(log_joint_NE - best_N[:, None])
        total_N = share_NE.sum(axis=1)
        share_NE /= total_N[:, None]
        return Assigned(best_N + np.log(total_N), share_NE)


class Hard:
    """Classification EM: each row belongs to its most probable expert. Raises the classification likelihood.

    Source: Celeux & Govaert, "A classification EM algorithm for clustering and two stochastic versions" (1992).
    """

    settles = True

    def __call__(self, log_joint_NE: Array) -> Assigned:
        return Assigned(log_joint_NE.max(axis=1), _only(log_joint_NE.argmax(axis=1), log_joint_NE.shape[1]))


class Stochastic:
    """Stochastic EM: each row belongs to one expert, drawn from p(e | x, y). Wanders, and may leave a poor maximum.

    Source: Celeux & Diebolt, "The SEM algorithm" (1985).
    """

    settles = False

    def __init__(self, random: np.random.RandomState) -> None:
        self.random = random

    def __call__(self, log_joint_NE: Array) -> Assigned:
        drawn_N = (log_joint_NE + self.random.gumbel(size=log_joint_NE.shape)).argmax(axis=1)
        return Assigned(Soft()(log_joint_NE).evidence_N, _only(drawn_N, log_joint_NE.shape[1]))


def _only(expert_N: Array, n_experts: int) -> Array:
    return np.eye(n_experts)[expert_N]
