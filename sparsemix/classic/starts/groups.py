"""Starts from k-means: of columns and targets, or of the residuals of a first fit."""

from __future__ import annotations

import warnings
from typing import Any, cast

import numpy as np
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from sparsemix.classic.parts import Array, Table
from sparsemix.classic.starts.moments import part
from sparsemix.classic.starts.seen import seen


def kmeans(table: Table, n_experts: int, random: np.random.RandomState) -> Array:
    """Groups of rows that are near in standardised columns and targets."""
    rows = seen(table)
    return _groups(np.column_stack([rows.z_ND, rows.t_NM]), table.weight_N, n_experts, random)


def residuals(table: Table, n_experts: int, random: np.random.RandomState) -> Array:
    """Groups of rows that one linear fit of all misses alike."""
    whole = part(seen(table), np.ones(len(table.weight_N)))
    share_NE = np.full((len(table.weight_N), n_experts), 1.0 / n_experts)
    share_NE[whole.row_N] = _groups(whole.residual_NM, whole.weight_N, n_experts, random)
    return share_NE


def _groups(v_NV: Array, weight_N: Array, n_experts: int, random: np.random.RandomState) -> Array:
    means = KMeans(n_experts, n_init=cast(Any, 1), random_state=random)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different rows than groups: some stay empty
        group_N = means.fit(v_NV, sample_weight=weight_N).predict(v_NV)
    return np.eye(n_experts)[group_N]
