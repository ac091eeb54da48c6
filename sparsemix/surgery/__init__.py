"""Models cut, grown and joined: each edit says whether it keeps the function, and by how much it does not."""

from sparsemix.surgery.edit import Edited, Theory, edited
from sparsemix.surgery.upcycle import UpcycleConfig, upcycle

__all__ = ["Edited", "Theory", "UpcycleConfig", "edited", "upcycle"]
