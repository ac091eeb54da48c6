"""A token store holds what it was given, appears complete or not at all, and is refused when damaged."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import tracemalloc
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsemix.data import BPETokenizerConfig, ByteTokenizerConfig, Document, TokenStore, build_store
from sparsemix.data.held_out import HeldOut
from sparsemix.data.shards import TokenStream

END = 256
BYTES = ByteTokenizerConfig().build([])


def documents_of(stream: TokenStream) -> list[bytes]:
    """The documents between the end tokens, by splitting the raw tokens, not by the index."""
    tokens = stream.read(0, len(stream)).tolist()
    assert tokens[0] == tokens[-1] == END
    inner = " ".join(map(str, tokens[1:-1])).split(f"{END}")
    return [bytes(map(int, part.split())) for part in inner]


def corpus(count: int, domains: int = 3) -> list[Document]:
    generator = random.Random(0)
    return [
        Document(f"document {number} " + "é" * generator.randrange(60), f"domain{generator.randrange(domains)}")
        for number in range(count)
    ]


@pytest.mark.parametrize("shard_tokens", [500, 1 << 28])
def test_every_document_is_in_one_stream_and_the_index_finds_it(build, shard_tokens: int):
    documents = [*corpus(300), Document("completion", "domain0", prompt="prompt ü")]
    store = build(documents, held_out=0.1, shard_tokens=shard_tokens)
    held_out = {domain: documents_of(stream) for domain, stream in store.held_out.items()}
    train = documents_of(store.train)
    assert sorted([*train, *chain(*held_out.values())]) == sorted((d.prompt + d.text).encode() for d in documents)
    assert not set(train) & set(chain(*held_out.values()))
    domain_of = {(d.prompt + d.text).encode(): d.domain for d in documents}
    for domain, texts in held_out.items():
        assert {domain_of[text] for text in texts} == {domain}
    for stream in (store.train, *store.held_out.values()):
        assert stream.meta.bytes == sum(map(len, documents_of(stream)))
        for entry, text in zip(stream.documents, documents_of(stream), strict=True):
            tokens = stream.read(int(entry["start"]), int(entry["start"] + entry["tokens"]))
            assert tokens.tolist() == [*text, END]
            assert entry["bytes"] == len(text)
            assert store.meta.domains[entry["domain"]] == domain_of[text]
            assert entry["prompt_tokens"] == (9 if text.startswith(b"prompt") else 0)


@given(start=st.integers(0, 40), length=st.integers(0, 40))
def test_reading_across_shards(tmp_path_factory, start: int, length: int):
    path = tmp_path_factory.getbasetemp() / "across"
    if not path.exists():
        build_store(path, [Document("0123456789abcdefghijklmnopqrstuvwxyz", "")], BYTES, held_out=0, shard_tokens=5)
    stream = TokenStore.open(path).train
    whole = [END, *b"0123456789abcdefghijklmnopqrstuvwxyz", END]
    if start < len(whole):
        assert stream.read(start, start + length).tolist() == whole[start : start + length]


def test_a_bpe_store_decodes_to_the_text_and_a_large_vocabulary_takes_four_bytes(tmp_path):
    documents = corpus(50)
    tokenizer = BPETokenizerConfig(vocab_size=300).build(document.text for document in documents)
    store = build_store(tmp_path / "bpe", documents, tokenizer, held_out=0)
    assert tokenizer.decode(store.train.read(0, len(store.train))) == "".join(d.text for d in documents)
    assert store.meta.dtype == "<u2"
    tokenizer.token_bytes += [b"x"] * (1 << 16)
    wide = build_store(tmp_path / "wide", documents, tokenizer, held_out=0)
    assert wide.meta.dtype == "<u4"
    assert np.array_equal(wide.train.read(0, 99), store.train.read(0, 99))


@pytest.mark.parametrize("share", [0.01, 0.02, 0.1, 0.3, 0.5])
@pytest.mark.parametrize("seed", range(20))
def test_the_share_held_out_of_each_domain(share: float, seed: int):
    choice = HeldOut(share, seed)
    counts = {domain: [choice.choose(domain) for _ in range(1000)] for domain in "abc"}
    for held in counts.values():
        assert not held[0]
        assert sum(held[:8]) >= 1
        assert abs(sum(held) - 1000 * share) <= 1


def test_the_seed_chooses():
    def chosen(seed: int) -> list[bool]:
        choice = HeldOut(0.1, seed)
        return [choice.choose("a") for _ in range(100)]

    assert chosen(3) == chosen(3)
    assert len({tuple(chosen(seed)) for seed in range(20)}) > 5


@settings(max_examples=30, deadline=None)
@given(domains=st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=12), seed=st.integers(0, 1000))
def test_two_documents_are_enough_to_hold_one_out(tmp_path_factory, domains: list[str], seed: int):
    path = tmp_path_factory.mktemp("two") / "store"
    store = build_store(path, [Document("text", domain) for domain in domains], BYTES, seed=seed)
    held_out = sum(stream.meta.documents for stream in store.held_out.values())
    assert held_out >= 1
    assert store.train.meta.documents == len(domains) - held_out >= 1


def test_nothing_is_held_out_when_nothing_is_asked(build):
    store = build(corpus(100), held_out=0)
    assert store.held_out == {}
    assert store.train.meta.documents == 100


def error_of(build, documents, **settings) -> str:
    with pytest.raises(ValueError) as caught:
        build(iter(documents), **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_wrong_input_is_refused_and_leaves_nothing(build, tmp_path):
    one = [Document("text", "")]
    assert "must have two documents to hold one out, got one; add documents" in error_of(build, one)
    assert "must hold text, got no documents" in error_of(build, [])
    assert "held_out: must be in 0..0.5, got 0.6" in error_of(build, corpus(9), held_out=0.6)
    assert "held_out: must be in 0..0.5, got nan" in error_of(build, corpus(9), held_out=float("nan"))
    many = [Document("text", str(number)) for number in range(101)]
    assert "must have at most 100 domains, got one more, '100'" in error_of(build, many)
    assert list(tmp_path.iterdir()) == []
    build(corpus(9))
    with pytest.raises(ValueError, match="path: must not exist yet"):
        build_store(tmp_path / "store0", corpus(9), BYTES)


def test_a_build_that_fails_leaves_nothing_not_even_folders(tmp_path):
    def failing():
        yield from corpus(20)
        raise OSError("unplugged")

    with pytest.raises(OSError, match="unplugged"):
        build_store(tmp_path / "runs" / "one" / "store", failing(), BYTES)
    assert list(tmp_path.iterdir()) == []


def test_a_build_holds_little_in_memory(tmp_path):
    text = "sixteen letters " * 4096
    count = 1500  # about 100 MB

    def generated():
        for number in range(count):
            yield Document(f"{number} {text}", "a")

    tracemalloc.start()
    store = build_store(tmp_path / "store", generated(), BYTES)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert store.train.meta.bytes > 90_000_000
    assert peak < 20_000_000


KILLED = """
import itertools, os, signal, sys
from pathlib import Path
from sparsemix.data import ByteTokenizerConfig, Document, build_store

def documents():
    for number in itertools.count():
        if number == 3000:
            os.kill(os.getpid(), signal.SIGKILL)
        yield Document(f"{number} " + "x" * 5000, "a")

build_store(Path(sys.argv[1]), documents(), ByteTokenizerConfig().build([]))
"""


def test_a_killed_build_leaves_no_store_and_the_next_one_works(tmp_path):
    path = tmp_path / "store"
    environment = {"PYTHONPATH": ":".join(sys.path)}
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path)], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert [entry.name for entry in tmp_path.iterdir()] == ["store.partial"]
    assert list((tmp_path / "store.partial").glob("*.tokens")), "it was killed before it wrote anything"
    with pytest.raises(ValueError, match=r"meta.json: must be of a token store"):
        TokenStore.open(path)
    assert build_store(path, corpus(20), BYTES).train.meta.documents > 10
    assert [entry.name for entry in tmp_path.iterdir()] == ["store"]


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: _cut(path / "train-00000.tokens"), "train-00000.tokens: must be a file of"),
        (lambda path: (path / "train-00001.tokens").unlink(), "train-00001.tokens: must be a file of"),
        (lambda path: _cut(path / "train.documents"), "train.documents: must be a file of"),
        (lambda path: _cut(path / "held_out_000.documents"), "held_out_000.documents: must be a file of"),
        (lambda path: (path / "meta.json").unlink(), "meta.json: must be of a token store"),
        (lambda path: (path / "meta.json").write_text("[]"), "meta.json: must be of a token store"),
        (
            lambda path: (path / "meta.json").write_text('{"version": 1'),
            "meta.json: must be of a token store",
        ),
        (lambda path: (path / "meta.json").write_text('{"version": 1}'), "meta.json: dtype: "),
        (lambda path: (path / "meta.json").write_bytes(b"\xff"), "meta.json: must be of a token store"),
    ],
)
def test_a_damaged_store_is_refused(build, damage, message: str):
    store = build(corpus(50), shard_tokens=500)
    damage(store.path)
    with pytest.raises(ValueError) as caught:
        TokenStore.open(store.path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_newer_format_is_refused(build, tmp_path):
    store = build(corpus(50))
    meta = json.loads((store.path / "meta.json").read_text())
    (store.path / "meta.json").write_text(json.dumps(meta | {"version": 2, "unheard_of": True}))
    with pytest.raises(ValueError, match=r"meta.json: format version must be 1, got version 2; update sparsemix"):
        TokenStore.open(store.path)


def test_a_store_can_be_moved(build, tmp_path):
    store = build(corpus(50))
    before = store.train.read(0, len(store.train)).copy()
    shutil.move(store.path, tmp_path / "elsewhere")
    assert np.array_equal(TokenStore.open(tmp_path / "elsewhere").train.read(0, len(before)), before)
