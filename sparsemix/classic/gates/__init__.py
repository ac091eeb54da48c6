"""Gates: what says which experts are to be asked."""

from sparsemix.classic.gates.softmax import SoftmaxGate

__all__ = ["SoftmaxGate"]
