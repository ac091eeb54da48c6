"""Gates: what says which experts are to be asked."""

from sparsemix.classic.gates.softmax import SoftmaxGate
from sparsemix.classic.gates.tree import TreeGate

__all__ = ["SoftmaxGate", "TreeGate"]
