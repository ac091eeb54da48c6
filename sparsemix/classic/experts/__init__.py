"""Experts: what predicts. Built-in linear and logistic ones, all fitted together."""

from sparsemix.classic.experts.linear import LinearExperts
from sparsemix.classic.experts.logistic import LogisticExperts

__all__ = ["LinearExperts", "LogisticExperts"]
