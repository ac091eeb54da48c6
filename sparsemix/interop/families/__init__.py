"""Families of checkpoints in Hugging Face's folders: a file each."""

from sparsemix.interop.families.every import FAMILIES, matching_family
from sparsemix.interop.families.family import Family
from sparsemix.interop.families.folder import open_family, theirs

__all__ = ["FAMILIES", "Family", "matching_family", "open_family", "theirs"]
