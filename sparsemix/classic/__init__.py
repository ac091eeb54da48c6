"""Mixtures of experts for tables: scikit-learn estimators fitted by EM, with any estimator as an expert. No torch."""

from sparsemix.classic.classification import HierarchicalMoEClassifier, MoEClassifier
from sparsemix.classic.experts import LinearExperts, LogisticExperts
from sparsemix.classic.gates import ClassifierGate, ConstantGate, GaussianGate, SoftmaxGate, TreeGate
from sparsemix.classic.regression import HierarchicalMoERegressor, MoERegressor

__all__ = [
    "ClassifierGate",
    "ConstantGate",
    "GaussianGate",
    "HierarchicalMoEClassifier",
    "HierarchicalMoERegressor",
    "LinearExperts",
    "LogisticExperts",
    "MoEClassifier",
    "MoERegressor",
    "SoftmaxGate",
    "TreeGate",
]
