"""Data are prepared once, used again as they are, and never mixed with other data."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from sparsemix.data import (
    BPETokenizerConfig,
    ByteTokenizerConfig,
    Sampler,
    Tokenizer,
    held_out_batches,
    prepare,
)


@pytest.fixture
def sources(tmp_path) -> list[str]:
    for name in ("one", "two"):
        (tmp_path / f"{name}.txt").write_text(f"words of file {name}\n" * 200)
    return [str(tmp_path / "one.txt"), str(tmp_path / "two.txt")]


def test_a_store_a_source_and_one_tokenizer_for_all(sources, tmp_path):
    seen = []
    tokenizer, stores = prepare(
        sources,
        tmp_path / "run" / "data",
        BPETokenizerConfig(vocab_size=300),
        progress=lambda what, size: seen.append((what, size)),
    )
    size = len("words of file one\n" * 200)
    assert [store.meta.domains for store in stores] == [("one",), ("two",)]
    for store, name in zip(stores, ("one", "two")):
        text = tokenizer.decode(store.train.read(0, len(store.train)))
        assert len(text) + sum(stream.meta.bytes for stream in store.held_out.values()) == size
        assert f"file {name}" in text
    names = [name for name, _ in seen]
    assert list(dict.fromkeys(names)) == ["tokenizer", *sources]
    assert max(size for name, size in seen if name == "tokenizer") == 2 * size
    assert seen[-1] == (sources[1], size)


def test_prepared_data_are_used_again_without_the_sources(sources, tmp_path):
    folder = tmp_path / "data"
    tokenizer, stores = prepare(sources, folder, BPETokenizerConfig(vocab_size=300), seed=1)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    for source in sources:
        os.remove(source)
    again, stores_again = prepare(sources, folder, BPETokenizerConfig(vocab_size=300), seed=1)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert again.fingerprint == tokenizer.fingerprint
    settings = {"batch_size": 2, "sequence_length": 8, "seed": 0}
    left, right = Sampler(stores, **settings).batch(5), Sampler(stores_again, **settings).batch(5)
    assert np.array_equal(left.tokens_BS, right.tokens_BS)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"held_out": 0.1}, "held_out=0.02"),
        ({"seed": 2}, "seed=0"),
        ({"sources": "one"}, "sources="),
        ({"tokenizer": BPETokenizerConfig(vocab_size=300)}, "tokenizer="),
        ({"tokenizer": ByteTokenizerConfig().build([])}, "tokenizer="),
    ],
)
def test_other_settings_are_refused(sources, tmp_path, change: dict, name: str):
    right = {"sources": sources, "folder": tmp_path / "data", "tokenizer": ByteTokenizerConfig()}
    prepare(**right)
    if "sources" in change:
        change = {"sources": sources[:1]}
    with pytest.raises(ValueError) as caught:
        prepare(**right | change)
    assert f"has data prepared with {name}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_ready_tokenizer_is_taken_as_it_is(sources, tmp_path):
    ready = BPETokenizerConfig(vocab_size=280).build(["other words\n" * 20])
    tokenizer, _ = prepare(sources, tmp_path / "data", ready)
    assert tokenizer.fingerprint == ready.fingerprint
    assert prepare(sources, tmp_path / "data", ready)[0].fingerprint == ready.fingerprint


def test_wrong_input_leaves_nothing(sources, tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "x"}\n{"txet": "y"}\n')
    before = sorted(tmp_path.iterdir())
    for wrong, message in (
        ([*sources, str(bad)], "bad.jsonl:2: must have text"),
        ([*sources, "absent"], "'absent', which does not exist"),
        ([], "data: must name at least one source"),
    ):
        for tokenizer in (ByteTokenizerConfig(), BPETokenizerConfig()):
            with pytest.raises(ValueError, match=message):
                prepare(wrong, tmp_path / "run" / "data", tokenizer)
            assert sorted(tmp_path.iterdir()) == before


def test_a_tokenizer_that_was_exchanged_is_noticed(sources, tmp_path):
    prepare(sources, tmp_path / "data", ByteTokenizerConfig())
    BPETokenizerConfig(vocab_size=280).build(["words\n" * 20]).save(tmp_path / "data" / "tokenizer.json")
    with pytest.raises(ValueError, match=r"must have tokens of tokenizer.json beside it"):
        prepare(sources, tmp_path / "data", ByteTokenizerConfig())


def test_a_file_of_a_few_hundred_bytes_is_enough(tmp_path):
    source = tmp_path / "small.txt"
    source.write_text("a few words\n" * 40)
    tokenizer, stores = prepare([str(source)], tmp_path / "data", ByteTokenizerConfig())
    batch = Sampler(stores, batch_size=2, sequence_length=32, seed=0).batch(100)
    assert tokenizer.decode(batch.tokens_BS[0]).strip()
    batches = held_out_batches(stores[0], batch_size=2, sequence_length=32, max_tokens_per_domain=1000)
    assert next(batches)[0] == "small"


def test_the_builtin_corpus_is_ready_in_seconds(tmp_path):
    tokenizer, (store,) = prepare(["builtin"], tmp_path / "data", ByteTokenizerConfig())
    assert isinstance(tokenizer, Tokenizer)
    assert store.train.meta.bytes > 5_000_000
    assert {"library", "encodings"} <= set(store.held_out)
    share = sum(stream.meta.documents for stream in store.held_out.values()) / store.train.meta.documents
    assert 0.015 < share < 0.03


def test_importing_the_package_needs_neither_torch_nor_datasets():
    code = "import sys, sparsemix.data; print({'torch', 'datasets', 'pyarrow'} & set(sys.modules))"
    environment = {"PYTHONPATH": ":".join(sys.path)}
    output = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment
    ).stdout
    assert output.strip() == "set()"
