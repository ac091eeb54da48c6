"""The token store on disk: memory-mapped streams of tokens, each with an index of its documents.

A stream is `end document end document end ...`: the end token closes a document and stands before the next
one. A store has one stream to train on, and one of held-out documents for each domain.
"""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path

import numpy as np

from sparsemix.checks import check
from sparsemix.config import config, from_json

VERSION = 1
META = "meta.json"
INDEX = np.dtype([("start", "<i8"), ("tokens", "<u4"), ("prompt_tokens", "<u4"), ("bytes", "<u4"), ("domain", "<u4")])
"""One entry a document: the position of its first token in the stream, its tokens (prompt and end among
them), its bytes of UTF-8 (prompt among them), and the number of its domain."""


@config
class StreamMeta:
    """What one stream holds."""

    name: str
    """How its files begin."""
    domain: str | None
    """The domain of its documents, None for the training stream, which has them all."""
    tokens: int
    """Tokens, end tokens among them, the leading one too."""
    documents: int
    """Documents."""
    bytes: int
    """Bytes of UTF-8 in the documents."""
    prompt_tokens: int
    """Tokens of prompts, which carry no loss."""


@config
class StoreMeta:
    """What a store holds, as its `meta.json` says."""

    version: int
    """Of the format."""
    dtype: str
    """Of the tokens, little-endian."""
    vocab_size: int
    """Of the tokenizer."""
    end_id: int
    """The end token."""
    tokenizer: str
    """The tokenizer's fingerprint."""
    shard_tokens: int
    """Tokens in each shard but the last of a stream."""
    held_out: float
    """The share of documents held out."""
    seed: int
    """That chose the documents held out."""
    domains: tuple[str, ...]
    """Names of the domains, in the order in which they came up."""
    streams: tuple[StreamMeta, ...]
    """The training stream, then the held-out streams."""


class TokenStream:
    """Tokens one after another, read from memory-mapped shards, and the index of the documents in them."""

    def __init__(self, folder: Path, meta: StreamMeta, store: StoreMeta):
        """Map the stream's files.

        Raises:
            ValueError: a file is missing or has not the size that `meta` says.
        """
        self.meta = meta
        self._shard_tokens = store.shard_tokens
        sizes = [min(store.shard_tokens, meta.tokens - start) for start in range(0, meta.tokens, store.shard_tokens)]
        self._shards = [
            _map(shard_path(folder, meta.name, number), np.dtype(store.dtype), size)
            for number, size in enumerate(sizes)
        ]
        self.documents = _map(index_path(folder, meta.name), INDEX, meta.documents)
        """The index, a structured array (documents) with the fields of `INDEX`."""

    def __len__(self) -> int:
        return self.meta.tokens

    def read(self, start: int, stop: int) -> np.ndarray:
        """The tokens from `start` up to `stop` or the end of the stream; a view where possible."""
        stop = min(stop, len(self))
        first, last = start // self._shard_tokens, max(stop - 1, start) // self._shard_tokens
        parts = []
        for number in range(first, last + 1):
            offset = number * self._shard_tokens
            parts.append(self._shards[number][max(start - offset, 0) : stop - offset])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def in_prompt(self, position: np.ndarray) -> np.ndarray:
        """Which of these positions (any shape, above 0) hold a token of a prompt; bool."""
        if self.meta.prompt_tokens == 0:
            return np.zeros(position.shape, dtype=bool)
        start, prompt_end = self._prompts
        return position < prompt_end[np.searchsorted(start, position, side="right") - 1]

    @cached_property
    def _prompts(self) -> tuple[np.ndarray, np.ndarray]:
        """Where each document starts and where its prompt ends: contiguous copies, as searches want them."""
        start = np.ascontiguousarray(self.documents["start"])
        return start, start + self.documents["prompt_tokens"]


class TokenStore:
    """A tokenised corpus on disk, opened for reading."""

    def __init__(self, path: Path, meta: StoreMeta):
        """Map every stream of the store in `path`."""
        streams = [TokenStream(path, stream, meta) for stream in meta.streams]
        self.path = path
        self.meta = meta
        self.train = streams[0]
        """The stream to train on."""
        self.held_out = {stream.meta.domain or "": stream for stream in streams[1:]}
        """Domain -> its stream of held-out documents, for the domains that have any."""

    @classmethod
    def open(cls, path: Path) -> TokenStore:
        """The store that `build_store` wrote.

        Raises:
            ValueError: no store there, another format, or files that are not as its meta.json says.
        """
        where = path / META
        try:
            text = where.read_text(encoding="utf-8")
            version = json.loads(text)["version"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{where}: must be of a token store, got {error!r}; prepare the data again") from None
        check(
            version == VERSION,
            f"{where}",
            f"format version must be {VERSION}",
            f"version {version!r}",
            "update sparsemix or prepare the data again",
        )
        return cls(path, from_json(StoreMeta, text, str(where)))


def shard_path(folder: Path, stream: str, number: int) -> Path:
    """Where a shard of a stream lies."""
    return folder / f"{stream}-{number:05}.tokens"


def index_path(folder: Path, stream: str) -> Path:
    """Where the index of a stream lies."""
    return folder / f"{stream}.documents"


def _map(path: Path, dtype: np.dtype, count: int) -> np.ndarray:
    """The file as an array, memory-mapped and read-only."""
    size = path.stat().st_size if path.is_file() else None
    check(
        size == count * dtype.itemsize,
        f"{path}",
        f"must be a file of {count * dtype.itemsize} bytes",
        "no file" if size is None else f"{size} bytes",
        "prepare the data again",
    )
    # asarray: slices of np.memmap itself cost microseconds each.
    return np.asarray(np.memmap(path, dtype=dtype, mode="r", shape=(count,)))
