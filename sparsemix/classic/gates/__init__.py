"""Gates: what says which experts are to be asked."""

from sparsemix.classic.gates.classifier import ClassifierGate
from sparsemix.classic.gates.constant import ConstantGate
from sparsemix.classic.gates.gaussian import GaussianGate
from sparsemix.classic.gates.softmax import SoftmaxGate
from sparsemix.classic.gates.tree import TreeGate

__all__ = ["ClassifierGate", "ConstantGate", "GaussianGate", "SoftmaxGate", "TreeGate"]
