"""Mixtures of experts for tables: scikit-learn estimators fitted by EM, with any estimator as an expert. No torch."""

from sparsemix.classic.classification import HierarchicalMoEClassifier, MoEClassifier
from sparsemix.classic.density import NormalMixture
from sparsemix.classic.display import MoEDisplay, plot_gate, plot_partition, plot_responsibilities
from sparsemix.classic.experts import EstimatorExperts, LinearExperts, LogisticExperts
from sparsemix.classic.gates import ClassifierGate, ConstantGate, GaussianGate, SoftmaxGate, TreeGate
from sparsemix.classic.persistence import load, save
from sparsemix.classic.regression import HierarchicalMoERegressor, MoERegressor

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
