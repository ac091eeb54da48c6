"""Writes a token store: documents stream in, tokens stream out; held-out documents are chosen on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from sparsemix.checks import check
from sparsemix.config import to_json
from sparsemix.data.document import Document
from sparsemix.data.held_out import HeldOut
from sparsemix.data.shards import (
    INDEX,
    META,
    VERSION,
    StoreMeta,
    StreamMeta,
    TokenStore,
    index_path,
    shard_path,
)
from sparsemix.data.tokenizer import Tokenizer
from sparsemix.files import new_folder, write_text

SHARD_TOKENS = 1 << 28
CHUNK = 1 << 22  # characters tokenised at once: enough to keep the cores busy, little to hold in memory
MOST_DOMAINS = 100  # evaluation goes by domain, and each keeps two files open while writing


def build_store(
    path: Path,
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    *,
    held_out: float = 0.02,
    seed: int = 0,
    shard_tokens: int = SHARD_TOKENS,
    progress: Callable[[int], None] | None = None,
) -> TokenStore:
    """Tokenise documents into a new store at `path`, holding a few megabytes at a time.

    The store appears at `path` when it is complete. Until then it grows in `path` + ".tmp", which the next
    build removes if this one is killed.

    Args:
        path: a folder that does not exist yet.
        documents: in an order that is the same each time.
        tokenizer: whose ids to write.
        held_out: share of each domain's documents that training never sees, in 0..0.5; see `HeldOut`.
        seed: chooses which.
        shard_tokens: tokens in a file.
        progress: called with the bytes of text read so far.

    Raises:
        ValueError: `path` exists, no documents, one document and `held_out` above 0, more than 100 domains.
    """
    check(not path.exists(), "path", "must not exist yet", f"{path}", "open the store or remove it")
    choice = HeldOut(held_out, seed)
    with new_folder(path) as temporary:
        writer = _StoreWriter(temporary, tokenizer, choice, shard_tokens)
        try:
            for document, tokens, prompt_tokens in _tokenise(documents, tokenizer):
                writer.add(document, tokens, prompt_tokens)
                if progress is not None:
                    progress(writer.num_bytes)
            write_text(temporary / META, to_json(writer.finish()))
        finally:
            writer.close()
    return TokenStore.open(path)


class _StreamWriter:
    """Appends documents to one stream."""

    def __init__(self, folder: Path, name: str, domain: str | None, tokenizer: Tokenizer, shard_tokens: int):
        self.name = name
        self.domain = domain
        self.tokens = self.documents = self.bytes = self.prompt_tokens = 0
        self._folder = folder
        self._dtype = token_dtype(tokenizer.vocab_size)
        self._shard_tokens = shard_tokens
        self._index = index_path(folder, name).open("wb")
        self._shard: BinaryIO | None = None
        self._write(np.array([tokenizer.end_id], dtype=self._dtype))

    def add(self, tokens: np.ndarray, prompt_tokens: int, num_bytes: int, domain: int) -> None:
        entry = np.array([(self.tokens, len(tokens), prompt_tokens, num_bytes, domain)], dtype=INDEX)
        self._index.write(entry.tobytes())
        self._write(tokens.astype(self._dtype, copy=False))
        self.documents += 1
        self.bytes += num_bytes
        self.prompt_tokens += prompt_tokens

    def finish(self) -> StreamMeta:
        """Put all of it into its files."""
        self.close()
        return StreamMeta(
            name=self.name,
            domain=self.domain,
            tokens=self.tokens,
            documents=self.documents,
            bytes=self.bytes,
            prompt_tokens=self.prompt_tokens,
        )

    def close(self) -> None:
        self._index.close()
        if self._shard is not None:
            self._shard.close()

    def _write(self, tokens: np.ndarray) -> None:
        while len(tokens):
            used = self.tokens % self._shard_tokens
            if used == 0:
                if self._shard is not None:
                    self._shard.close()
                number = self.tokens // self._shard_tokens
                self._shard = shard_path(self._folder, self.name, number).open("wb")
            assert self._shard is not None
            part = tokens[: self._shard_tokens - used]
            self._shard.write(part.tobytes())
            self.tokens += len(part)
            tokens = tokens[len(part) :]


class _StoreWriter:
    """Sends each document to the stream it belongs to."""

    def __init__(self, folder: Path, tokenizer: Tokenizer, choice: HeldOut, shard_tokens: int):
        self.num_bytes = 0
        self._folder = folder
        self._tokenizer = tokenizer
        self._choice = choice
        self._shard_tokens = shard_tokens
        self._domains: dict[str, int] = {}
        self._train = self._stream("train", None)
        self._held_out: dict[str, _StreamWriter] = {}
        # The last training document waits: it is held out if no other one was.
        self._last: tuple[Document, np.ndarray, int] | None = None

    def add(self, document: Document, tokens: np.ndarray, prompt_tokens: int) -> None:
        self._domains.setdefault(document.domain, len(self._domains))
        check(
            len(self._domains) <= MOST_DOMAINS,
            "data",
            f"must have at most {MOST_DOMAINS} domains",
            f"one more, {document.domain!r}",
            "give coarser domains or none",
        )
        self.num_bytes += _num_bytes(document)
        if self._choice.choose(document.domain):
            self._hold_out(document, tokens, prompt_tokens)
        else:
            self._train_on_last()
            self._last = document, tokens, prompt_tokens

    def finish(self) -> StoreMeta:
        check(self._last is not None, "data", "must hold text", "no documents", "add some")
        if self._choice.share > 0 and not self._held_out:
            assert self._last is not None
            remedy = "add documents or set held_out to 0"
            check(self._train.documents > 0, "data", "must have two documents to hold one out", "one", remedy)
            self._hold_out(*self._last)
        else:
            self._train_on_last()
        return StoreMeta(
            version=VERSION,
            dtype=token_dtype(self._tokenizer.vocab_size).str,
            vocab_size=self._tokenizer.vocab_size,
            end_id=self._tokenizer.end_id,
            tokenizer=self._tokenizer.fingerprint,
            shard_tokens=self._shard_tokens,
            held_out=self._choice.share,
            seed=self._choice.seed,
            domains=tuple(self._domains),
            streams=tuple(stream.finish() for stream in (self._train, *self._held_out.values())),
        )

    def close(self) -> None:
        for stream in (self._train, *self._held_out.values()):
            stream.close()

    def _train_on_last(self) -> None:
        if self._last is not None:
            self._put(self._train, *self._last)

    def _hold_out(self, document: Document, tokens: np.ndarray, prompt_tokens: int) -> None:
        number = self._domains[document.domain]
        if document.domain not in self._held_out:
            self._held_out[document.domain] = self._stream(f"held_out_{number:03}", document.domain)
        self._put(self._held_out[document.domain], document, tokens, prompt_tokens)

    def _put(self, stream: _StreamWriter, document: Document, tokens: np.ndarray, prompt_tokens: int) -> None:
        stream.add(tokens, prompt_tokens, _num_bytes(document), self._domains[document.domain])

    def _stream(self, name: str, domain: str | None) -> _StreamWriter:
        return _StreamWriter(self._folder, name, domain, self._tokenizer, self._shard_tokens)


def token_dtype(vocab_size: int) -> np.dtype:
    """The smallest type that holds every id."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


def _tokenise(documents: Iterable[Document], tokenizer: Tokenizer) -> Iterator[tuple[Document, np.ndarray, int]]:
    """Each document with its tokens (prompt, text, end) and how many of them are of the prompt."""
    end = np.array([tokenizer.end_id], dtype=np.uint32)
    for chunk in _chunks(documents):
        prompts = tokenizer.encode_batch([document.prompt for document in chunk])
        texts = tokenizer.encode_batch([document.text for document in chunk])
        for document, prompt, text in zip(chunk, prompts, texts):
            yield document, np.concatenate([prompt, text, end]), len(prompt)


def _chunks(documents: Iterable[Document]) -> Iterator[list[Document]]:
    chunk: list[Document] = []
    size = 0
    for document in documents:
        chunk.append(document)
        size += len(document.text) + len(document.prompt)
        if size >= CHUNK:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _num_bytes(document: Document) -> int:
    return len(document.prompt.encode()) + len(document.text.encode())
