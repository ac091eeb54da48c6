"""Models cut, grown and joined: each edit says whether it keeps the function, and by how much it does not."""

from sparsemix.surgery.edit import Edited, Theory, edited
from sparsemix.surgery.grow import GrowConfig, grow
from sparsemix.surgery.merge_dense import MergeDenseConfig, merge_dense
from sparsemix.surgery.null import AddNullConfig, add_null
from sparsemix.surgery.split import SplitConfig, split
from sparsemix.surgery.upcycle import UpcycleConfig, upcycle

__all__ = [
    "AddNullConfig",
    "Edited",
    "GrowConfig",
    "MergeDenseConfig",
    "SplitConfig",
    "Theory",
    "UpcycleConfig",
    "add_null",
    "edited",
    "grow",
    "merge_dense",
    "split",
    "upcycle",
]
