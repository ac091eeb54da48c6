"""What the parameter `expert` asks for."""

from __future__ import annotations

from typing import Any

from sklearn.base import clone

from sparsemix.checks import check
from sparsemix.classic.experts.estimators import EstimatorExperts
from sparsemix.classic.experts.linear import LinearExperts
from sparsemix.classic.experts.logistic import LogisticExperts
from sparsemix.classic.parts import Experts


def as_experts(expert: Any, *, n_jobs: int | None, random_state: Any, classifier: bool) -> Experts:
    """Experts of None (linear or logistic ones), of an estimator or a list of estimators, or of experts themselves."""
    if expert is None:
        return LogisticExperts() if classifier else LinearExperts()
    if isinstance(expert, Experts):
        return clone(expert)
    given = expert if isinstance(expert, list | tuple) else [expert]
    for one in given:
        seen = one.__name__ if isinstance(one, type) else type(one).__name__
        usable = hasattr(one, "fit") and hasattr(one, "get_params") and not isinstance(one, type)
        check(usable, "expert", "must be None, experts, an estimator or a list of estimators", seen)
    check(len(given) > 0, "expert", "must name at least one estimator", "an empty list")
    return EstimatorExperts(expert, n_jobs=n_jobs, random_state=random_state)
