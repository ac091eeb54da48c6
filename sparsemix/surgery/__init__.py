"""Models cut, grown and joined: each edit says whether it keeps the function, and by how much it does not."""

from sparsemix.surgery.compare import Change, compare
from sparsemix.surgery.drop import DropLayerExpertsConfig, drop_layer_experts
from sparsemix.surgery.edit import Edited, Theory, edited
from sparsemix.surgery.grow import GrowConfig, grow
from sparsemix.surgery.merge_dense import MergeDenseConfig, merge_dense
from sparsemix.surgery.null import AddNullConfig, add_null
from sparsemix.surgery.operation import Operation, operate, with_record
from sparsemix.surgery.split import SplitConfig, split
from sparsemix.surgery.text import Text, TextConfig
from sparsemix.surgery.upcycle import UpcycleConfig, upcycle

__all__ = [
    "AddNullConfig",
    "Change",
    "DropLayerExpertsConfig",
    "Edited",
    "GrowConfig",
    "MergeDenseConfig",
    "Operation",
    "SplitConfig",
    "Text",
    "TextConfig",
    "Theory",
    "UpcycleConfig",
    "add_null",
    "compare",
    "drop_layer_experts",
    "edited",
    "grow",
    "merge_dense",
    "operate",
    "split",
    "upcycle",
    "with_record",
]
