"""Batches: for training a pure function of their index, for evaluation always the same ones."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from sparsemix.checks import check
from sparsemix.data.permutation import hashed, mix, permute
from sparsemix.data.shards import TokenStore, TokenStream


class Batch(NamedTuple):
    """Sequences of tokens and what follows each token."""

    tokens_BS: np.ndarray
    """Inputs, int64."""
    targets_BS: np.ndarray
    """The token after each input, int64."""
    weight_BS: np.ndarray
    """1 where the target counts for the loss, 0 where it is of a prompt or past the end, float32."""
    document_BS: np.ndarray | None
    """Which document of its row an input belongs to, int64, when documents are kept apart."""
    position_BS: np.ndarray | None
    """The input's position in the part of its document in the row, int64, when documents are kept apart."""


class Sampler:
    """Training batches from one or more stores, the same for the same seed, in any order, from any index.

    A store's training stream is cut into windows of `sequence_length` inputs; the targets of all windows
    are all of its tokens, each once (a few twice where the length does not divide the stream). Each epoch
    visits every window once in an order of its own. A window may begin and end inside documents.

    An end token as an input is the beginning of the next document, so that the model learns to start from
    it; as a target it is the end of the one before. So no target ever lies in another document than its
    input.
    """

    def __init__(
        self,
        stores: Sequence[TokenStore],
        weights: Sequence[float] | None = None,
        *,
        batch_size: int,
        sequence_length: int,
        seed: int,
        keep_documents_apart: bool = False,
    ):
        """Check that the stores can give such batches.

        Args:
            stores: of the same tokenizer.
            weights: how often each store is drawn from, of any sum; by their numbers of windows unless given.
            batch_size: sequences in a batch (B).
            sequence_length: inputs in a sequence (S), fewer than the tokens of the smallest store.
            seed: of the order, at least 0.
            keep_documents_apart: fill `document_BS` and `position_BS`.
        """
        check(len(stores) > 0, "stores", "must be at least one", "none", "name some data")
        check(batch_size >= 1, "batch_size", "must be at least 1", f"{batch_size}", "raise it")
        check(sequence_length >= 1, "sequence_length", "must be at least 1", f"{sequence_length}", "raise it")
        check(seed >= 0, "seed", "must be at least 0", f"{seed}", "choose another")
        for store in stores:
            check(
                store.meta.tokenizer == stores[0].meta.tokenizer,
                f"{store.path}",
                "must have the tokenizer of the other stores",
                "another",
                "prepare them together",
            )
            check(
                sequence_length < len(store.train),
                "sequence_length",
                f"must be below the {len(store.train)} training tokens of {store.path}",
                f"{sequence_length}",
                "lower it or add text",
            )
        self.stores = tuple(stores)
        self.windows = tuple(math.ceil((len(store.train) - 1) / sequence_length) for store in stores)
        """Training windows of each store."""
        self.weights = _weights(self.windows if weights is None else weights, len(stores))
        self.batch_size = batch_size
        self.sequence_length = sequence_length
        self.seed = seed
        self.keep_documents_apart = keep_documents_apart

    @property
    def num_train_tokens(self) -> int:
        """Training tokens of all stores."""
        return sum(len(store.train) for store in self.stores)

    @property
    def num_train_windows(self) -> int:
        """Training windows of all stores."""
        return sum(self.windows)

    def epochs(self, num_batches: int) -> tuple[float, ...]:
        """How often `num_batches` batches go through each store."""
        rows = num_batches * self.batch_size
        total = sum(self.weights)
        return tuple(rows * weight / total / windows for weight, windows in zip(self.weights, self.windows))

    def batch(self, index: int) -> Batch:
        """The batch with this index, from 0; nothing depends on which batches were asked for before."""
        row_B = np.arange(index * self.batch_size, (index + 1) * self.batch_size)
        source_B, draw_B = mix(row_B, self.weights)
        reader = _Reader(self.batch_size, self.sequence_length, self.stores[0].meta.end_id)
        for number, (store, windows) in enumerate(zip(self.stores, self.windows)):
            rows = np.flatnonzero(source_B == number)
            epoch, place = np.divmod(draw_B[rows], windows)
            window = permute(place, windows, self._key(number, epoch))
            # The last window is moved back to be full, rather than leave its tokens out.
            last = len(store.train) - 1 - self.sequence_length
            reader.read(store.train, rows, np.minimum(window * self.sequence_length, last))
        return reader.batch(self.keep_documents_apart)

    def _key(self, number: int, epoch: np.ndarray) -> np.ndarray:
        """A key for the order of each epoch of a store."""
        start = np.array([self.seed % 2**64, number], dtype=np.uint64)
        return hashed(hashed(hashed(start[:1]) ^ start[1:]) ^ epoch.astype(np.uint64))


def held_out_batches(
    store: TokenStore,
    *,
    batch_size: int,
    sequence_length: int,
    max_tokens_per_domain: int,
    keep_documents_apart: bool = False,
) -> Iterator[tuple[str, Batch]]:
    """Domain and batch, for every domain with held-out text: fixed sequences, in the order of the documents.

    A domain's stream is cut into windows whose targets are each of its tokens once; where they exceed
    `max_tokens_per_domain`, as many windows as fit (at least one) are taken at even distances. The last
    window is filled up with targets of weight 0; the last batch of a domain may have fewer rows.
    """
    for domain, stream in store.held_out.items():
        windows = math.ceil((len(stream) - 1) / sequence_length)
        taken = min(windows, max(1, max_tokens_per_domain // sequence_length))
        start = np.arange(taken) * windows // taken * sequence_length
        for first in range(0, taken, batch_size):
            start_B = start[first : first + batch_size]
            reader = _Reader(len(start_B), sequence_length, store.meta.end_id)
            reader.read(stream, np.arange(len(start_B)), start_B)
            yield domain, reader.batch(keep_documents_apart)


class _Reader:
    """Gathers the rows of one batch."""

    def __init__(self, batch_size: int, sequence_length: int, end_id: int):
        self._end_id = end_id
        self._length = sequence_length
        # One more token than inputs: the last target.
        self._tokens = np.full((batch_size, sequence_length + 1), end_id, dtype=np.int64)
        self._weight_BS = np.zeros((batch_size, sequence_length), dtype=np.float32)

    def read(self, stream: TokenStream, rows: np.ndarray, starts: np.ndarray) -> None:
        """Fill `rows` with the stream's tokens from `starts` on; what lies past its end keeps weight 0."""
        for row, start in zip(rows.tolist(), starts.tolist()):
            tokens = stream.read(start, start + self._length + 1)
            self._tokens[row, : len(tokens)] = tokens
        target = starts[:, None] + np.arange(1, self._length + 1)
        self._weight_BS[rows] = (target < len(stream)) & ~stream.in_prompt(target)

    def batch(self, keep_documents_apart: bool) -> Batch:
        """What was read."""
        tokens_BS = np.ascontiguousarray(self._tokens[:, :-1])
        targets_BS = np.ascontiguousarray(self._tokens[:, 1:])
        document_BS = position_BS = None
        if keep_documents_apart:
            begins_BS = tokens_BS == self._end_id
            document_BS = np.cumsum(begins_BS, axis=1)
            place = np.arange(self._length)
            position_BS = place - np.maximum.accumulate(np.where(begins_BS, place, 0), axis=1)
        return Batch(tokens_BS, targets_BS, self._weight_BS, document_BS, position_BS)


def _weights(weights: Sequence[float], count: int) -> tuple[float, ...]:
    check(
        len(weights) == count and all(math.isfinite(weight) and weight > 0 for weight in weights),
        "weights",
        f"must be {count} numbers above 0, one for each store",
        f"{list(weights)}",
        "correct them",
    )
    return tuple(float(weight) for weight in weights)
