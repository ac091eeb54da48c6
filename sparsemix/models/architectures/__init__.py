"""Known models as data: their shapes, where these come from, and the published sizes."""

from sparsemix.checks import check
from sparsemix.models.architectures.complete import COMPLETE
from sparsemix.models.architectures.counted import COUNTED
from sparsemix.models.architectures.deepseek import DEEPSEEK
from sparsemix.models.architectures.record import Architecture

ARCHITECTURES: dict[str, Architecture] = COMPLETE | DEEPSEEK | COUNTED

__all__ = ["ARCHITECTURES", "Architecture", "architecture"]


def architecture(name: str) -> Architecture:
    """The model of this name.

    Raises:
        ValueError: no such name; the line lists those there are.

    >>> architecture("olmoe-1b-7b").counts().parameters_active
    1282017280
    """
    known = ", ".join(ARCHITECTURES)
    check(name in ARCHITECTURES, "arch", "must be a known architecture", repr(name), f"choose among {known}")
    return ARCHITECTURES[name]
