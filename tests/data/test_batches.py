"""Training batches are a pure function of their index and cover the data; held-out batches are fixed."""

from __future__ import annotations

import math
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsemix.data import (
    Batch,
    BPETokenizerConfig,
    ByteTokenizerConfig,
    Document,
    Sampler,
    TokenStore,
    build_store,
    held_out_batches,
)
from sparsemix.data.permutation import mix, permute
from sparsemix.data.shards import TokenStream

END = 256


def equal(left: Batch, right: Batch) -> bool:
    return all(
        (a is None and b is None) or (a is not None and b is not None and a.dtype == b.dtype and np.array_equal(a, b))
        for a, b in zip(left, right)
    )


def numbered(count: int, length: int = 30) -> list[Document]:
    """Documents that have no stretch of text in common with one another."""
    return [Document(f"{number:03}" * (length // 3), "a" if number % 2 else "b") for number in range(count)]


def rows_of(batch: Batch) -> list[tuple[int, ...]]:
    """Each row as the stretch of the stream that it shows: its inputs and the last target."""
    assert np.array_equal(batch.tokens_BS[:, 1:], batch.targets_BS[:, :-1])
    return [(*inputs, targets[-1]) for inputs, targets in zip(batch.tokens_BS.tolist(), batch.targets_BS.tolist())]


@given(size=st.integers(1, 3000), key=st.integers(0, 2**64 - 1))
def test_a_permutation_is_one(size: int, key: int):
    image = permute(np.arange(size), size, np.full(size, key, dtype=np.uint64))
    assert sorted(image.tolist()) == list(range(size))


def test_a_permutation_of_a_huge_range_is_fast_and_well_spread():
    size = 10**15 + 1
    index = np.arange(10_000) + 10**14
    image = permute(index, size, np.full(len(index), 5, dtype=np.uint64))
    assert image.min() >= 0
    assert image.max() < size
    assert len(set(image.tolist())) == len(index)
    tenths = np.bincount(image * 10 // size, minlength=10)
    assert np.all(abs(tenths - 1000) < 150)  # five standard deviations


@pytest.mark.parametrize("size", [3, 5, 24])
def test_permutations_of_small_ranges_are_about_equally_likely(size: int):
    keys = np.random.default_rng(0).integers(0, 2**64, 4000, dtype=np.uint64)
    for first in (0, size - 1):
        image = permute(np.full(len(keys), first), size, keys)
        share = np.bincount(image, minlength=size) / len(keys)
        assert np.all(abs(share - 1 / size) < 0.1 / size + 0.02)


@settings(deadline=None)
@given(weights=st.lists(st.floats(0.001, 1000), min_size=1, max_size=5), start=st.integers(0, 10**9))
def test_mixing_counts_are_exact_and_draws_are_consecutive(weights: list[float], start: int):
    row = np.arange(start, start + 400)
    source, draw = mix(row, weights)
    for number, weight in enumerate(weights):
        drawn = draw[source == number]
        assert np.array_equal(drawn, np.arange(len(drawn)) + (drawn[0] if len(drawn) else 0))
        if len(drawn):  # so many rows before the last one went to this source
            last = row[source == number][-1]
            assert abs(drawn[-1] - last * weight / sum(weights)) <= len(weights)


def test_mixing_begins_at_nothing():
    source, draw = mix(np.arange(12), [1, 2, 3])
    assert Counter(source.tolist()) == {0: 2, 1: 4, 2: 6}
    assert [draw[source == number].tolist() for number in range(3)] == [[*range(2)], [*range(4)], [*range(6)]]


@pytest.mark.parametrize("length", [1, 7, 64, 200])
@pytest.mark.parametrize("shard_tokens", [50, 1 << 20])
def test_an_epoch_shows_every_window_once_and_every_target(build, length: int, shard_tokens: int):
    store = build(numbered(40), held_out=0.1, shard_tokens=shard_tokens)
    stream = store.train.read(0, len(store.train)).tolist()
    starts = [min(i, len(stream) - 1 - length) for i in range(0, len(stream) - 1, length)]
    sampler = Sampler([store], batch_size=1, sequence_length=length, seed=3)
    assert sampler.num_train_windows == len(starts)
    assert sampler.num_train_tokens == len(stream)
    orders = []
    for epoch in range(2):
        batches = [sampler.batch(index) for index in range(epoch * len(starts), (epoch + 1) * len(starts))]
        assert all(batch.weight_BS.all() for batch in batches)
        orders.append([row for batch in batches for row in rows_of(batch)])
    wanted = Counter(tuple(stream[start : start + length + 1]) for start in starts)
    assert Counter(orders[0]) == wanted
    assert Counter(orders[1]) == wanted
    if len(wanted) > 5:
        assert orders[0] != orders[1]


def test_a_batch_is_a_pure_function_of_its_index(build):
    stores = [build(numbered(30)), build(numbered(50, 90))]
    settings = {"batch_size": 4, "sequence_length": 16, "seed": 7, "keep_documents_apart": True}
    sampler = Sampler(stores, [1, 3], **settings)
    forward = [sampler.batch(index) for index in range(60)]
    for index in random.Random(0).sample(range(60), 60):
        assert equal(sampler.batch(index), forward[index])
    resumed = Sampler([TokenStore.open(store.path) for store in stores], [0.25, 0.75], **settings)
    assert equal(resumed.batch(59), forward[59])
    assert not equal(Sampler(stores, [1, 3], **settings | {"seed": 8}).batch(0), forward[0])
    halves = Sampler(stores, [1, 3], **settings | {"batch_size": 2})
    assert rows_of(halves.batch(10)) + rows_of(halves.batch(11)) == rows_of(forward[5])


def test_stores_are_mixed_by_their_weights(build):
    stores = [build([Document(letter * 500, ""), Document(letter * 500, "")]) for letter in "abc"]
    sampler = Sampler(stores, [5, 3, 2], batch_size=10, sequence_length=8, seed=0)
    first = [row[1] for index in range(20) for row in rows_of(sampler.batch(index))]
    counts = Counter(chr(token) for token in first if token != END)
    assert abs(counts["a"] - 100) <= 3
    assert abs(counts["b"] - 60) <= 3
    assert abs(counts["c"] - 40) <= 3
    assert sampler.epochs(63) == pytest.approx((630 * 0.5 / 63, 630 * 0.3 / 63, 630 * 0.2 / 63))


def test_without_weights_the_stores_finish_their_epochs_together(build):
    stores = [build(numbered(20)), build(numbered(60))]
    sampler = Sampler(stores, batch_size=1, sequence_length=10, seed=0)
    rows = Counter(row for index in range(sampler.num_train_windows) for row in rows_of(sampler.batch(index)))
    apart = Counter()
    for store in stores:
        alone = Sampler([store], batch_size=1, sequence_length=10, seed=1)
        apart += Counter(row for index in range(alone.num_train_windows) for row in rows_of(alone.batch(index)))
    assert rows == apart


def test_training_never_shows_held_out_text_and_shows_all_the_rest(build):
    generator = random.Random(0)
    texts = ["".join(generator.choices("abcdefghijklmnop", k=40)) for _ in range(100)]
    store = build([Document(text, text[0]) for text in texts], held_out=0.2)
    sampler = Sampler([store], batch_size=1, sequence_length=32, seed=0)
    windows = [row for index in range(sampler.num_train_windows) for row in rows_of(sampler.batch(index))]
    trained = {bytes(row[i : i + 6]) for row in windows for i in range(28) if END not in row[i : i + 6]}
    held_out = [
        text
        for text in texts
        if any(text.encode() in bytes(_without_end(stream)) for stream in store.held_out.values())
    ]
    assert len(held_out) == sum(stream.meta.documents for stream in store.held_out.values()) >= 16
    for text in texts:  # six letters of 16 kinds do not come up twice by chance
        pieces = {text[i : i + 6].encode() for i in range(35)}
        assert pieces.isdisjoint(trained) if text in held_out else len(pieces & trained) >= 25


def _without_end(stream: TokenStream) -> list[int]:
    return [token for token in stream.read(0, len(stream)).tolist() if token != END]


def test_documents_kept_apart(build):
    store = build([Document("abc", ""), Document("de", ""), Document("f", ""), Document("held", "")], held_out=0)
    batch = Sampler([store], batch_size=1, sequence_length=14, seed=0, keep_documents_apart=True).batch(0)
    assert rows_of(batch) == [(END, *b"abc", END, *b"de", END, *b"f", END, *b"held", END)]
    assert batch.document_BS is not None
    assert batch.position_BS is not None
    assert batch.document_BS.tolist() == [[1, 1, 1, 1, 2, 2, 2, 3, 3, 4, 4, 4, 4, 4]]
    assert batch.position_BS.tolist() == [[0, 1, 2, 3, 0, 1, 2, 0, 1, 0, 1, 2, 3, 4]]
    assert batch.weight_BS.all()


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_masks_of_documents_and_prompts_agree_with_a_walk_through_the_documents(tmp_path_factory, data):
    text = st.text(alphabet="xyzü", max_size=6)
    pairs = data.draw(st.lists(st.tuples(text, text), min_size=1, max_size=12))
    length = data.draw(st.integers(1, 12))
    documents = [Document(text, "", prompt) for prompt, text in pairs]
    stream = [END]  # of the training stream: token, whether it is of a prompt, which document, where in it
    walk = [(False, 0, 0)]
    for number, document in enumerate(documents):
        prompt, text = document.prompt.encode(), document.text.encode()
        stream += [*prompt, *text, END]
        for place in range(len(prompt) + len(text)):
            walk.append((place < len(prompt), number, place + 1))
        walk.append((False, number + 1, 0))
    if length >= len(stream):
        return
    path = tmp_path_factory.mktemp("walk") / "store"
    store = build_store(path, documents, ByteTokenizerConfig().build([]), held_out=0, shard_tokens=5)
    sampler = Sampler([store], batch_size=2, sequence_length=length, seed=1, keep_documents_apart=True)
    starts = {min(start, len(stream) - 1 - length) for start in range(0, len(stream) - 1, length)}
    wanted = set()
    for start in starts:
        inputs, targets = walk[start : start + length], walk[start + 1 : start + length + 1]
        # In a row the first document begins where the row does.
        position = [place if document != inputs[0][1] else place - inputs[0][2] for _, document, place in inputs]
        document = [document - inputs[0][1] for _, document, _ in inputs]
        weight = [0.0 if prompt else 1.0 for prompt, _, _ in targets]
        wanted.add((tuple(stream[start : start + length]), tuple(weight), tuple(document), tuple(position)))
    seen = set()
    for index in range(math.ceil(sampler.num_train_windows / 2)):
        batch = sampler.batch(index)
        assert batch.document_BS is not None
        assert batch.position_BS is not None
        document_BS = batch.document_BS - batch.document_BS[:, :1]
        for row in zip(batch.tokens_BS, batch.weight_BS, document_BS, batch.position_BS):
            seen.add(tuple(tuple(part.tolist()) for part in row))
    assert seen == wanted


def test_types_and_shapes(build):
    store = build(numbered(30))
    batch = Sampler([store], batch_size=3, sequence_length=5, seed=0, keep_documents_apart=True).batch(2)
    assert [(part.shape, part.dtype) for part in batch if part is not None] == [
        ((3, 5), np.int64),
        ((3, 5), np.int64),
        ((3, 5), np.float32),
        ((3, 5), np.int64),
        ((3, 5), np.int64),
    ]
    assert all(part is not None and part.flags.c_contiguous and part.flags.writeable for part in batch)
    plain = Sampler([store], batch_size=3, sequence_length=5, seed=0).batch(2)
    assert plain.document_BS is None
    assert plain.position_BS is None
    assert np.array_equal(plain.tokens_BS, batch.tokens_BS)


def test_held_out_batches_show_every_target_once_in_order(build):
    store = build([*numbered(60), Document("answer", "a", prompt="question")], held_out=0.3)
    given_out = list(held_out_batches(store, batch_size=3, sequence_length=8, max_tokens_per_domain=10**9))
    again = list(held_out_batches(store, batch_size=3, sequence_length=8, max_tokens_per_domain=10**9))
    assert all(a == b and equal(left, right) for (a, left), (b, right) in zip(given_out, again, strict=True))
    for domain, stream in store.held_out.items():
        batches = [batch for name, batch in given_out if name == domain]
        assert all(len(batch.tokens_BS) == 3 for batch in batches[:-1])
        inputs = np.concatenate([batch.tokens_BS.ravel() for batch in batches])
        targets = np.concatenate([batch.targets_BS.ravel() for batch in batches])
        weight = np.concatenate([batch.weight_BS.ravel() for batch in batches])
        tokens = stream.read(0, len(stream))
        assert np.array_equal(inputs[: len(tokens) - 1], tokens[:-1])
        assert np.array_equal(targets[: len(tokens) - 1], tokens[1:])
        assert not weight[len(tokens) - 1 :].any()
        assert weight.sum() == len(tokens) - 1 - stream.meta.prompt_tokens
        assert len(weight) - (len(tokens) - 1) < 8


def test_held_out_batches_take_windows_from_all_over_a_long_domain(build):
    store = build([Document("x", "b"), *(Document(f"{number:03}", "b") for number in range(900))], held_out=0.5)
    batches = [b for _, b in held_out_batches(store, batch_size=4, sequence_length=4, max_tokens_per_domain=43)]
    rows = [row for batch in batches for row in rows_of(batch)]
    assert len(rows) == 10
    stream = store.held_out["b"].read(0, 10**6).tolist()
    places = [next(i for i in range(0, len(stream), 4) if tuple(stream[i : i + 5]) == row) for row in rows]
    gaps = np.diff(places)
    assert places[0] == 0
    assert gaps.max() - gaps.min() <= 4
    assert places[-1] > len(stream) * 0.85
    fewest = list(held_out_batches(store, batch_size=4, sequence_length=64, max_tokens_per_domain=1))
    assert [batch.tokens_BS.shape for _, batch in fewest] == [(1, 64)]


def test_held_out_documents_can_be_kept_apart(build):
    store = build(numbered(20), held_out=0.5)
    for _, batch in held_out_batches(
        store, batch_size=2, sequence_length=40, max_tokens_per_domain=10**6, keep_documents_apart=True
    ):
        assert batch.position_BS is not None
        assert np.array_equal(batch.position_BS[:, 1:] == 0, batch.tokens_BS[:, 1:] == END)
        assert not batch.position_BS[:, 0].any()


def test_bits_per_byte_of_a_bpe_store_count_every_held_out_byte(tmp_path):
    documents = [Document(f"the number {number} naïvely", "a") for number in range(50)]
    tokenizer = BPETokenizerConfig(vocab_size=300).build(document.text for document in documents)
    store = build_store(tmp_path / "store", documents, tokenizer, held_out=0.2)
    counted = sum(
        (tokenizer.bytes_per_token_V[batch.targets_BS] * batch.weight_BS).sum()
        for _, batch in held_out_batches(store, batch_size=2, sequence_length=16, max_tokens_per_domain=10**6)
    )
    assert counted == store.held_out["a"].meta.bytes


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size: must be at least 1, got 0"),
        ({"sequence_length": 0}, "sequence_length: must be at least 1, got 0"),
        ({"seed": -1}, "seed: must be at least 0, got -1"),
        ({"sequence_length": 10_000}, "got 10000; lower it or add text"),
        ({"weights": [1]}, "weights: must be 2 numbers above 0, one for each store, got [1]; correct them"),
        ({"weights": [1, 0]}, "weights: must be 2 numbers above 0"),
        ({"weights": [1, math.inf]}, "weights: must be 2 numbers above 0"),
        ({"weights": [1, math.nan]}, "weights: must be 2 numbers above 0"),
        ({"stores": []}, "stores: must be at least one, got none"),
    ],
)
def test_wrong_settings_are_refused(build, settings: dict, message: str):
    right = {
        "stores": [build(numbered(20)), build(numbered(20))],
        "weights": None,
        "batch_size": 2,
        "sequence_length": 4,
        "seed": 0,
    }
    with pytest.raises(ValueError) as caught:
        Sampler(**right | settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_stores_of_different_tokenizers_do_not_mix(build, tmp_path):
    tokenizer = BPETokenizerConfig(vocab_size=270).build(document.text for document in numbered(9))
    other = build_store(tmp_path / "other", numbered(20), tokenizer)
    with pytest.raises(ValueError, match="must have the tokenizer of the other stores"):
        Sampler([build(numbered(20)), other], batch_size=1, sequence_length=4, seed=0)
