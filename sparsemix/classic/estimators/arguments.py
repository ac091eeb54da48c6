"""The parameters of the estimators: dataclasses, for scikit-learn reads an explicit signature of `__init__`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(kw_only=True, repr=False, eq=False)
class Counted:
    """How many experts, side by side."""

    n_experts: int | str = 2
    """A number; or how to find it: "bic", "cv" (held-out rows), "prune" (experts of the largest mixture die)."""
    n_experts_range: tuple[int, int] = (1, 8)
    """The least and the largest number, where it is to be found."""


@dataclass(kw_only=True, repr=False, eq=False)
class Branched:
    """How many experts, as leaves of a tree."""

    branching: Sequence[int] = (2, 2)
    """Children of a node at each level from the root."""


@dataclass(kw_only=True, repr=False, eq=False)
class Shared:
    """What all mixtures are told."""

    expert: Any = field(default=None, kw_only=False)
    """An estimator, cloned for each expert; a list of them, one for each; `EstimatorExperts`, `LinearExperts` or
    `LogisticExperts`; None for linear experts, of classifiers logistic ones."""
    gating: Any = None
    """A gate of this library; None for a `SoftmaxGate`. In a tree, that of each node."""
    em: str = "soft"
    """Responsibilities: "soft"; "hard", each row to its best expert; "stochastic", drawn, and soft ones at the end."""
    start: str = "splits"
    """Where EM starts: "splits" of the rows where two laws explain more than one (deterministic), "kmeans" of (X, y),
    "residuals" of a first fit, or "random"."""
    n_init: int = 1
    """Starts; the fit with the highest objective is kept."""
    max_iter: int = 200
    """Iterations of EM from one start."""
    tol: float = 1e-6
    """EM ends when its objective is estimated to be this near to its limit, in nats for a unit of sample weight."""
    pooling: str | int = "soft"
    """Who predicts: all experts by the gate's probabilities ("soft"), the gate's first ("hard"), its first k (a
    number), or all, by weights learned on held-out rows ("stacking")."""
    cv: Any = 5
    """Folds of "cv" and "stacking", as scikit-learn takes them."""
    warm_start: bool = False
    """Whether `fit` goes on from the mixture of the last one."""
    n_jobs: int | None = None
    """Fits at a time, by joblib."""
    random_state: Any = None
    """Of random starts, drawn responsibilities, and the parts that have none of their own."""
    verbose: int = 0
    """Above 0, a line is printed for each iteration."""


@dataclass(kw_only=True, repr=False, eq=False)
class Flat(Shared, Counted):
    """Of experts side by side."""


@dataclass(kw_only=True, repr=False, eq=False)
class Hierarchical(Shared, Branched):
    """Of experts in a tree."""
