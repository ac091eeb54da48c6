"""Mixtures of experts for tables: scikit-learn estimators fitted by EM, with any estimator as an expert. No torch."""

from sparsemix.classic.display import MoEDisplay, plot_gate, plot_partition, plot_responsibilities
from sparsemix.classic.estimators.classification import HierarchicalMoEClassifier, MoEClassifier
from sparsemix.classic.estimators.regression import HierarchicalMoERegressor, MoERegressor
from sparsemix.classic.experts import EstimatorExperts, LinearExperts, LogisticExperts
from sparsemix.classic.gates import ClassifierGate, ConstantGate, GaussianGate, SoftmaxGate, TreeGate
from sparsemix.classic.persistence import load, save
from sparsemix.classic.predictive.density import NormalMixture

__all__ = [
    "ClassifierGate",
    "ConstantGate",
    "EstimatorExperts",
    "GaussianGate",
    "HierarchicalMoEClassifier",
    "HierarchicalMoERegressor",
    "LinearExperts",
    "LogisticExperts",
    "MoEClassifier",
    "MoEDisplay",
    "MoERegressor",
    "NormalMixture",
    "SoftmaxGate",
    "TreeGate",
    "load",
    "plot_gate",
    "plot_partition",
    "plot_responsibilities",
    "save",
]
