"""Mixtures of experts for tables: scikit-learn estimators fitted by EM, with any estimator as an expert. No torch."""

from sparsemix.classic.classification import MoEClassifier
from sparsemix.classic.experts import LinearExperts, LogisticExperts
from sparsemix.classic.gates import ClassifierGate, ConstantGate, GaussianGate, SoftmaxGate
from sparsemix.classic.regression import MoERegressor

__all__ = [
    "ClassifierGate",
    "ConstantGate",
    "GaussianGate",
    "LinearExperts",
    "LogisticExperts",
    "MoEClassifier",
    "MoERegressor",
    "SoftmaxGate",
]
