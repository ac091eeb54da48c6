"""What a family of checkpoints is: how its configs read and are written, and a table of invertible rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from sparsemix.interop.families.keys import Keys
from sparsemix.interop.families.rules import Table
from sparsemix.models import DecoderConfig


class Family(NamedTuple):
    """Models of one kind in Hugging Face's folders."""

    name: str
    """`model_type` in config.json."""
    architecture: str
    """The class of transformers that it names."""
    to_ours: Callable[[Keys], DecoderConfig]
    """The decoder that keys describe; takes every key, or refuses by name what our decoder cannot be."""
    to_theirs: Callable[[DecoderConfig], dict[str, Any] | None]
    """The keys that come nearest to a decoder; None where none come near. Whether they say it all is for `to_ours`."""
    table: Callable[[DecoderConfig], Table]
    """The rules for its tensors."""
