"""Tokenizers lose nothing, learn the same each time, and never give out half a character."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from sparsemix.config import from_json, to_json
from sparsemix.data import BPETokenizerConfig, ByteTokenizerConfig, Tokenizer, TokenizerConfig
from sparsemix.data.tokenizer import END, END_ID, sample_evenly

PROSE = [f"the {word} sat on the mat, naïve über {n}\n\n" for n in range(40) for word in ("cat", "dog", "hut")]
TOKENIZERS = {
    "bytes": ByteTokenizerConfig().build([]),
    "bpe": BPETokenizerConfig(vocab_size=300).build(PROSE),
}
TEXT = st.text() | st.text(alphabet=" \t\r\nthe catsaon ü€😀<|end|>", max_size=200)


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return TOKENIZERS[request.param]


@pytest.mark.parametrize("name", TOKENIZERS)
@given(text=TEXT)
def test_decoding_gives_the_text_back(name: str, text: str):
    tokenizer = TOKENIZERS[name]
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.end_id not in ids
    assert tokenizer.bytes_per_token_V[ids].sum() == len(text.encode())
    stream = tokenizer.stream()
    assert "".join(stream.push(index) for index in ids) + stream.close() == text


@pytest.mark.parametrize("name", TOKENIZERS)
@given(texts=st.lists(TEXT, max_size=4))
def test_a_batch_is_its_texts(name: str, texts: list[str]):
    tokenizer = TOKENIZERS[name]
    assert [ids.tolist() for ids in tokenizer.encode_batch(texts)] == [tokenizer.encode(text) for text in texts]


@given(ids=st.lists(st.integers(0, 299)))
def test_any_ids_decode_as_the_library_decodes_them(ids: list[int]):
    tokenizer = TOKENIZERS["bpe"]
    text = tokenizer.decode(ids)
    assert text == tokenizer.model.decode(ids, skip_special_tokens=True)
    stream = tokenizer.stream()
    assert "".join(stream.push(index) for index in ids) + stream.close() == text


def test_ids_below_256_are_the_bytes(tokenizer: Tokenizer):
    assert tokenizer.token_bytes[:256] == [bytes([value]) for value in range(256)]
    assert tokenizer.token_bytes[tokenizer.end_id] == b""
    assert tokenizer.end_id == END_ID


def test_merges_shorten_the_text_and_the_vocabulary_is_as_large_as_asked():
    bpe = TOKENIZERS["bpe"]
    assert bpe.vocab_size == 300
    assert TOKENIZERS["bytes"].vocab_size == 257
    assert len(bpe.encode(PROSE[0])) < len(PROSE[0].encode()) / 3
    assert BPETokenizerConfig(vocab_size=300).build(["ab"]).vocab_size == 258


def test_an_empty_prompt_begins_a_document(tokenizer: Tokenizer):
    assert tokenizer.encode_prompt("") == [tokenizer.end_id]
    assert tokenizer.encode_prompt("a b") == tokenizer.encode("a b")


def test_a_stream_keeps_back_half_a_character():
    stream = TOKENIZERS["bytes"].stream()
    assert [stream.push(index) for index in "€".encode()] == ["", "", "€"]
    assert stream.push(0xE2) == ""
    assert stream.push(END_ID) == ""
    assert stream.close() == "\ufffd"


def test_saved_is_loaded_the_same_and_other_libraries_read_it(tokenizer: Tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    loaded = Tokenizer.load(path)
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.encode(f"a ünit {END}") == tokenizer.encode(f"a ünit {END}")
    foreign = tokenizers.Tokenizer.from_file(str(path))
    assert foreign.decode(tokenizer.encode("the cat 😀")) == "the cat 😀"
    assert foreign.token_to_id(END) == tokenizer.end_id


def test_learning_is_the_same_in_every_process():
    code = (
        "from sparsemix.data import BPETokenizerConfig, read_documents; from itertools import islice\n"
        "texts = (document.text for document in islice(read_documents('builtin'), 60))\n"
        "print(BPETokenizerConfig(vocab_size=1000, sample_characters=200_000).build(texts).fingerprint)"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            capture_output=True,
            text=True,
            env={"PYTHONHASHSEED": seed, "RAYON_NUM_THREADS": threads, "PYTHONPATH": ":".join(sys.path)},
        ).stdout
        for seed, threads in (("1", "1"), ("2", "2"), ("3", "4"))
    }
    assert len(outputs) == 1


def test_a_sample_is_spread_over_all_texts():
    texts = [f"{number:03}" for number in range(100)]
    assert sample_evenly(texts, 300) == texts
    assert sample_evenly(texts, 299) == texts[::2]
    assert sample_evenly(iter(texts), 30) == texts[::16]
    assert sample_evenly(texts, 1) == texts[:1]


def test_the_config_goes_to_json_and_back():
    value = BPETokenizerConfig(vocab_size=300)
    assert from_json(TokenizerConfig, to_json(value)) == value
    with pytest.raises(ValueError, match=r"^config: vocab_size|^config: bpe.vocab_size"):
        from_json(TokenizerConfig, '{"type": "bpe", "vocab_size": 256}')


@pytest.mark.parametrize("content", [None, "{}", "no json", b"\xff"])
def test_what_is_no_tokenizer_is_refused(content, tmp_path):
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=r"tokenizer.json: must be a tokenizer.json, got [^\n]+; check the file$"):
        Tokenizer.load(path)


def test_a_foreign_byte_level_tokenizer_is_taken_with_its_own_end(tmp_path):
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: number + 2 for number, letter in enumerate(letters)} | {"ab": 258}
    foreign = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab | {"<s>": 0, "</s>": 1}, merges=[("a", "b")]))
    foreign.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    foreign.decoder = tokenizers.decoders.ByteLevel()
    foreign.add_special_tokens(["<s>", "</s>"])
    foreign.add_tokens(["ünion"])
    foreign.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    foreign.enable_truncation(4)
    path = tmp_path / "foreign.json"
    foreign.save(str(path))
    with pytest.raises(ValueError, match=r"^tokenizer: must have the end token, got no '<\|end\|>'; name"):
        Tokenizer.load(path)
    tokenizer = Tokenizer.load(path, end="</s>")
    text = "abba ünion</s> ab €"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not {0, 1} & set(ids)
    assert tokenizer.encode_prompt(text) == [0, *ids]  # it begins as every text does, but does not end
    assert tokenizer.encode_prompt("") == [0]
    assert (tokenizer.end_id, tokenizer.vocab_size) == (1, 260)
    assert np.array_equal(tokenizer.bytes_per_token_V[[0, 1, 258, 259]], [0, 0, 2, 6])


def test_a_tokenizer_that_is_not_byte_level_is_refused(tmp_path):
    path = tmp_path / "words.json"
    tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, END: 1}, unk_token="a")).save(str(path))
    with pytest.raises(ValueError, match="must be byte-level"):
        Tokenizer.load(path)
