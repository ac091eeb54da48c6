"""Named tensors that are read when they are needed: from memory, from files, or made of others on the way."""

from sparsemix.tensors.source import Derived, Held, Recipe, Spec, TensorSource, spec_of

__all__ = ["Derived", "Held", "Recipe", "Spec", "TensorSource", "spec_of"]
