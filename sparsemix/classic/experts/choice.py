"""What the parameter `expert` asks for."""

from __future__ import annotations

from typing import Any

from sparsemix.classic.experts.estimators import EstimatorExperts
from sparsemix.classic.experts.linear import LinearExperts
from sparsemix.classic.experts.logistic import LogisticExperts
from sparsemix.classic.parts import Experts
from sparsemix.classic.wrapping.requirements import estimators_of
from sparsemix.classic.wrapping.seeding import fresh


def as_experts(expert: Any, *, n_jobs: int | None, random_state: Any, classifier: bool) -> Experts:
    """Experts of None (linear or logistic ones), of an estimator or a list of estimators, or of experts themselves.

    Args:
        n_jobs, random_state: what experts take that do not say it themselves.
    """
    if expert is None:
        return LogisticExperts() if classifier else LinearExperts()
    if isinstance(expert, Experts):
        return _told(fresh(expert), n_jobs=n_jobs, random_state=random_state)
    estimators_of(expert)
    return EstimatorExperts(expert, n_jobs=n_jobs, random_state=random_state)


def _told(experts: Experts, **values: Any) -> Experts:
    silent = [name for name, value in experts.get_params(deep=False).items() if value is None]
    return experts.set_params(**{name: value for name, value in values.items() if name in silent})
