"""Tokens of real text where there is a tokenizer: a module of the standard library, which every machine has."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import tokenizers
import torch
from torch import Tensor

from sparsemix.verify.situations import SEED

NUM_ROWS = 2


def some_tokens(vocab_size: int, num_tokens: int, files: Sequence[Path] = ()) -> Tensor:
    """(B, S) ids of two rows with so many tokens together: of text if `files` has a tokenizer, else random ones."""
    length = max(num_tokens // NUM_ROWS, 2)
    tokenizer = next((file for file in files if file.name == "tokenizer.json"), None)
    if tokenizer is None:
        generator = torch.Generator().manual_seed(SEED)
        return torch.randint(vocab_size, (NUM_ROWS, length), generator=generator)
    text = Path(textwrap.__file__).read_text(encoding="utf-8")
    ids = tokenizers.Tokenizer.from_file(str(tokenizer)).encode(text, add_special_tokens=False).ids
    ids = ids * (NUM_ROWS * length // len(ids) + 1)
    return torch.tensor(ids[: NUM_ROWS * length]).view(NUM_ROWS, length)
