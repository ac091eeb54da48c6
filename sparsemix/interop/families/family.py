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
    """Keys that may describe a decoder; None where none can. Whether they do shows when `to_ours` reads them back."""
    table: Callable[[DecoderConfig], Table]
    """The rules for its tensors."""

    def read(self, keys: Keys) -> DecoderConfig:
        """The decoder that keys describe, which may come from anywhere.

        Raises:
            ValueError: a key is missing or not known, or says what our decoder cannot be.
        """
        try:
            return self.to_ours(keys)
        except (
            TypeError,
            AttributeError,
            ArithmeticError,
        ) as error:  # computing with a string, or with heads that are 0
            rule = "must have values that can be computed with"
            raise ValueError(f"{keys.source}: {rule}, got {error}; get the model anew") from None
