"""Tokens of real text where there is a tokenizer: a module of the standard library, which every machine has."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from sparsemix.checks import check
from sparsemix.data.tokenizer import read_tokenizer
from sparsemix.verify.situations import SEED

NUM_ROWS = 2


def some_tokens(vocab_size: int, num_tokens: int, files: Sequence[Path] = ()) -> Tensor:
    """(B, S) ids of two rows with so many tokens together: of text if `files` has a tokenizer, else random ones.

    Raises:
        ValueError: the tokenizer is damaged, or is another model's.
    """
    length = max(num_tokens // NUM_ROWS, 2)
    tokenizer = next((file for file in files if file.name == "tokenizer.json"), None)
    if tokenizer is None:
        generator = torch.Generator().manual_seed(SEED)
        return torch.randint(vocab_size, (NUM_ROWS, length), generator=generator)
    text = Path(textwrap.__file__).read_text(encoding="utf-8")
    ids = read_tokenizer(tokenizer).encode(text, add_special_tokens=False).ids
    rule, largest = f"must give ids below vocab_size={vocab_size}", max(ids, default=vocab_size)
    check(largest < vocab_size, str(tokenizer), rule, largest, "put the model's own tokenizer there")
    ids = ids * (NUM_ROWS * length // len(ids) + 1)
    return torch.tensor(ids[: NUM_ROWS * length]).view(NUM_ROWS, length)
