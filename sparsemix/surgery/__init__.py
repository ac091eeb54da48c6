"""Models cut, grown and joined: each edit says whether it keeps the function, and by how much it does not."""

from sparsemix.surgery.compare import Change, compare
from sparsemix.surgery.drop import DropLayerExpertsConfig, drop_layer_experts
from sparsemix.surgery.edit import Edited, Theory, edited
from sparsemix.surgery.group import Groups
from sparsemix.surgery.grow import GrowConfig, grow
from sparsemix.surgery.merge import MergeConfig, merge_experts, share_experts
from sparsemix.surgery.merge_dense import MergeDenseConfig, merge_dense
from sparsemix.surgery.null import AddNullConfig, add_null
from sparsemix.surgery.operation import Operation, operate
from sparsemix.surgery.prune import FrequencyConfig, NAEEConfig, PruneConfig, REAPConfig, keep_experts, prune
from sparsemix.surgery.record import RECORD, open_recorded, with_record
from sparsemix.surgery.split import SplitConfig, split
from sparsemix.surgery.text import Text, TextConfig
from sparsemix.surgery.untie import UntieConfig, untie
from sparsemix.surgery.upcycle import UpcycleConfig, upcycle
from sparsemix.surgery.walk import Mixed, Step, final_hidden, walk

__all__ = [
    "RECORD",
    "open_recorded",
    "AddNullConfig",
    "Change",
    "DropLayerExpertsConfig",
    "Edited",
    "FrequencyConfig",
    "Groups",
    "GrowConfig",
    "MergeConfig",
    "MergeDenseConfig",
    "Mixed",
    "NAEEConfig",
    "Operation",
    "PruneConfig",
    "REAPConfig",
    "SplitConfig",
    "Step",
    "Text",
    "TextConfig",
    "Theory",
    "UntieConfig",
    "UpcycleConfig",
    "add_null",
    "compare",
    "drop_layer_experts",
    "edited",
    "final_hidden",
    "grow",
    "keep_experts",
    "merge_dense",
    "merge_experts",
    "operate",
    "prune",
    "share_experts",
    "split",
    "untie",
    "upcycle",
    "walk",
    "with_record",
]
