"""A model that lies in files: its config, and its tensors as our decoder names them, read when they are needed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sparsemix.models import DecoderConfig
from sparsemix.tensors import TensorSource


class StoredModel(NamedTuple):
    """A model in a run, in a folder of our own format, or in a folder of Hugging Face's of a family we know."""

    config: DecoderConfig
    """What `build` makes the decoder of."""
    tensors: TensorSource
    """Named, shaped and laid out as in `Decoder.state_dict()`."""
    family: str
    """`sparsemix`, or the family of Hugging Face's that the folder is of, as its config.json says: `mixtral`, ..."""
    files: tuple[Path, ...] = ()
    """Tokenizer and generation settings, which go along when the model does."""
    facts: Mapping[str, Any] = {}
    """What is known of its training: steps, tokens, loss, data; JSON."""
