"""Named tensors that are read when they are needed: from memory, from files, or made of others on the way."""

from sparsemix.tensors.folder import Stored, open_file, open_folder
from sparsemix.tensors.source import Derived, Held, Recipe, Spec, TensorSource, spec_of
from sparsemix.tensors.write import write_folder

__all__ = [
    "Derived",
    "Held",
    "Recipe",
    "Spec",
    "Stored",
    "TensorSource",
    "open_file",
    "open_folder",
    "spec_of",
    "write_folder",
]
