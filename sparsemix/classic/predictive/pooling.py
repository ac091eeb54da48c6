"""How what the experts say becomes one prediction: all of them, the best ones of the gate, or weights learned anew."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
from scipy.special import softmax
from sklearn.utils import _safe_indexing

from sparsemix.checks import check
from sparsemix.classic.em.mixture import Mixture, mixed
from sparsemix.classic.numeric.blocks import in_blocks
from sparsemix.classic.numeric.multinomial import normalised
from sparsemix.classic.parts import Array, Experts
from sparsemix.classic.predictive.density import NormalMixture
from sparsemix.classic.predictive.stacking import Stack

NAMES = ("soft", "hard", "stacking")
Pooling = str | int | Stack
"""
"soft": sum_e p(e | x) out_e(x); "hard": the gate's first expert alone; k: its first k, their probabilities made to sum
to one; a `Stack`: all experts with the probabilities that it makes of the gate's.
"""


def check_pooling(pooling: Any, n_experts: int) -> None:
    """Raise `ValueError` unless `pooling` is "soft", "hard", "stacking" or a number of experts that there are."""
    whole = isinstance(pooling, Integral) and not isinstance(pooling, bool)
    check(
        1 <= int(pooling) <= n_experts if whole else isinstance(pooling, str) and pooling in NAMES,
        "pooling",
        f"must be 'soft', 'hard', 'stacking' or how many experts to ask, 1..{n_experts}",
        repr(pooling),
    )


def experts_asked(pooling: Pooling, n_experts: int) -> int:
    """How many experts have a say in a row."""
    if isinstance(pooling, Integral):
        return min(int(pooling), n_experts)
    return 1 if pooling == "hard" else n_experts


def pooled_gate(log_gate_NE: Array, pooling: Pooling) -> Array:
    """The probabilities by which experts are weighted, (N, E), rows sum to one.

    Args:
        log_gate_NE: `Gate.log_scores`; rows need not be normalised.
    """
    return softmax(_pooled_scores(log_gate_NE, pooling), axis=1)


def pooled_log_density(mixture: Mixture, X: Any, y: Array, pooling: Pooling) -> Array:
    """log sum_e gate_e(x) p(y | x, e) with `pooled_gate`, (N,)."""
    return mixed(_pooled_scores(mixture.gate.log_scores(X), pooling), mixture.experts.log_density(X, y))


def _pooled_scores(log_gate_NE: Array, pooling: Pooling) -> Array:
    """Logs of `pooled_gate`, each row up to a constant."""
    if isinstance(pooling, Stack):
        return pooling.log_scores(normalised(log_gate_NE))
    asked = experts_asked(pooling, log_gate_NE.shape[1])
    if asked < log_gate_NE.shape[1]:
        return np.where(first_experts(log_gate_NE, asked), log_gate_NE, -np.inf)
    return log_gate_NE


def first_experts(score_NE: Array, count: int) -> Array:
    """Which `count` experts of each row have the highest scores, a mask; of equal ones those with lower numbers."""
    left_NE = score_NE.copy()
    first_NE = np.zeros(score_NE.shape, dtype=bool)
    for _ in range(count):
        best_N1 = left_NE.argmax(axis=1)[:, None]
        np.put_along_axis(first_NE, best_N1, True, axis=1)
        np.put_along_axis(left_NE, best_N1, -np.inf, axis=1)
    return first_NE


def pooled(mixture: Mixture, X: Any, pooling: Pooling) -> Array:
    """What the mixture says, (N, M): sum_e gate_e(x) out_e(x) with `pooled_gate`, in blocks of rows.

    Where fewer than all experts are asked, each is evaluated on the rows alone that ask it.
    """
    return in_blocks(lambda rows: pooled_rows(mixture, rows, pooling), X)


def pooled_rows(mixture: Mixture, X: Any, pooling: Pooling) -> Array:
    """`pooled`, all rows at once."""
    gate_NE = pooled_gate(mixture.gate.log_scores(X), pooling)
    if experts_asked(pooling, gate_NE.shape[1]) == gate_NE.shape[1]:
        return np.einsum("ne,nem->nm", gate_NE, mixture.experts.output(X))
    out_NM = None
    for expert, gate_N in enumerate(gate_NE.T):
        rows = np.flatnonzero(gate_N)
        if len(rows):
            share = gate_N[rows, None] * mixture.experts.output_of(expert, _safe_indexing(X, rows))
            out_NM = np.zeros((len(gate_N), share.shape[1])) if out_NM is None else out_NM
            out_NM[rows] += share
    assert out_NM is not None  # a row asks at least one expert
    return out_NM


def pooled_density(mixture: Mixture, X: Any, pooling: Pooling, output_shape: tuple[int, ...]) -> NormalMixture:
    """p(y | x) of each row with `pooled_gate` for the gate; regression only. Its mean is `pooled`.

    Args:
        output_shape: of a target, (M,), or () for one output without an axis.
    """
    gate_NE = in_blocks(lambda rows: pooled_gate(mixture.gate.log_scores(rows), pooling), X)
    moments_N2EM = in_blocks(lambda rows: _moments(mixture.experts, rows), X)
    shape = (*gate_NE.shape, *output_shape)
    return NormalMixture(gate_NE, moments_N2EM[:, 0].reshape(shape), moments_N2EM[:, 1].reshape(shape))


def _moments(experts: Experts, X: Any) -> Array:
    """Mean and variance of each expert, (N, 2, E, M)."""
    mean_NEM = experts.output(X)
    return np.stack([mean_NEM, np.broadcast_to(experts.variance(X), mean_NEM.shape)], axis=1)
