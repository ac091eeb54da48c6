"""Models cut, grown and joined: each edit says whether it keeps the function, and by how much it does not."""

from sparsemix.surgery.compare import Change, compare
from sparsemix.surgery.edit import Edited, Theory, edited
from sparsemix.surgery.prune import FrequencyConfig, NAEEConfig, PruneConfig, REAPConfig, keep_experts, prune
from sparsemix.surgery.text import Text, TextConfig
from sparsemix.surgery.upcycle import UpcycleConfig, upcycle
from sparsemix.surgery.walk import Mixed, Step, final_hidden, walk

__all__ = [
    "Change",
    "Edited",
    "FrequencyConfig",
    "Mixed",
    "NAEEConfig",
    "PruneConfig",
    "REAPConfig",
    "Step",
    "Text",
    "TextConfig",
    "Theory",
    "UpcycleConfig",
    "compare",
    "edited",
    "final_hidden",
    "keep_experts",
    "prune",
    "upcycle",
    "walk",
]
