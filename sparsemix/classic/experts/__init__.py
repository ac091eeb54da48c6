"""Experts: what predicts. Built-in linear and logistic ones, all fitted together, and any scikit-learn estimator."""

from sparsemix.classic.experts.choice import as_experts
from sparsemix.classic.experts.estimators import EstimatorExperts
from sparsemix.classic.experts.linear import LinearExperts
from sparsemix.classic.experts.logistic import LogisticExperts

__all__ = ["EstimatorExperts", "LinearExperts", "LogisticExperts", "as_experts"]
