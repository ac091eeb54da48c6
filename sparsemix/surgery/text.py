"""Calibration text: rows of tokens that models are measured on, the same whenever it is read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tokenizers
import torch
from pydantic import Field
from torch import Tensor

from sparsemix.checks import check
from sparsemix.config import config
from sparsemix.data import read_documents
from sparsemix.data.held_out import HeldOut
from sparsemix.data.tokenizer import read_tokenizer, sample_evenly
from sparsemix.interop.opening import tokenizer_file
from sparsemix.interop.stored import StoredModel

BATCH_TOKENS = 2048
"""Tokens that go through a block together: enough for a product, little beside the block's weights."""
CHARACTERS_A_TOKEN = 64
"""So much text is looked at for each token wanted: rows then come from all over the sources."""


class Text(NamedTuple):
    """Rows of text: each token but the first of a row is to be predicted from those before it."""

    tokens_BS: Tensor
    """int64."""
    num_bytes: int
    """UTF-8 bytes that the tokens to be predicted stand for."""

    @property
    def batches(self) -> tuple[Tensor, ...]:
        """The rows, a few at a time."""
        return self.tokens_BS.split(max(1, BATCH_TOKENS // self.tokens_BS.shape[1]))


@config
class TextConfig:
    """Which text, and how much of it."""

    sources: tuple[str, ...] = Field(("builtin",), min_length=1)
    """Files, folders or data sets; of the built-in corpus, documents that training with its defaults never sees."""
    tokens: int = Field(8192, ge=2)
    """Tokens, in whole rows: fewer if there are no more."""
    row: int = Field(512, ge=2)
    """Tokens of a row; fewer if the model's context is shorter."""

    def read(self, model: StoredModel) -> Text:
        """Rows taken evenly from the sources, in the tokens of the model.

        Raises:
            ValueError: the model has no tokenizer, or there is not one row of text.
        """
        row = min(self.row, model.config.context)
        texts = sample_evenly(_texts(self.sources), CHARACTERS_A_TOKEN * self.tokens)
        token_T, bytes_T = _encoded(read_tokenizer(tokenizer_file(model)), texts)
        largest, rule = int(token_T.max(initial=0)), "must give ids that the model has"
        fits = largest < model.config.vocab_size
        check(fits, "tokenizer", rule, f"{largest} with vocab_size={model.config.vocab_size}", "use the model's own")
        count = len(token_T) // row
        seen, remedy = f"{len(token_T)} tokens", f"give more of it, or rows shorter than {row}"
        check(count > 0, "text", "must have a row of tokens", seen, remedy)
        wanted = max(1, self.tokens // row)
        chosen = sorted({index * count // wanted for index in range(wanted)})
        token_BS, bytes_BS = (values[: count * row].reshape(count, row)[chosen] for values in (token_T, bytes_T))
        return Text(torch.from_numpy(token_BS.astype(np.int64)), int(bytes_BS[:, 1:].sum()))


def _texts(sources: Iterable[str]) -> Iterator[str]:
    for source in sources:
        choice = HeldOut(0.02, seed=0)  # what `train` holds out unless told otherwise
        for document in read_documents(source):
            if source != "builtin" or choice.choose(document.domain):
                yield document.prompt + document.text


def _encoded(tokenizer: tokenizers.Tokenizer, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Ids of all texts, one after the other, and how many bytes each stands for."""
    ids, sizes = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
    for text, encoding in zip(texts, tokenizer.encode_batch(texts, add_special_tokens=False)):
        bytes_before = np.cumsum([0, *(len(character.encode()) for character in text)])
        ends = bytes_before[[end for _, end in encoding.offsets]] if encoding.ids else bytes_before[:0]
        ids.append(np.array(encoding.ids, dtype=np.int64))
        sizes.append(np.diff(np.maximum.accumulate(ends), prepend=0))
    return np.concatenate(ids), np.concatenate(sizes)
