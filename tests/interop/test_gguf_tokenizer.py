"""What a GGUF file says of the tokenizer: tokens, merges, words and ends; tokenizers that llama.cpp cannot be are
refused."""

import dataclasses
import json
import warnings

import gguf
import pytest
import tokenizers
from interop.gguf_cases import TWINS, twin
from tokenizers import pre_tokenizers
from tokenizers.models import BPE

from sparsemix.data import BPETokenizerConfig, ByteTokenizerConfig
from sparsemix.interop.gguf import write_gguf
from sparsemix.interop.gguf.words import KNOWN

TEXT = ["a router sends each token to a few experts; an expert is small"] * 3
VOCAB = 300


@pytest.fixture
def written(tmp_path):
    """Writes a model with these files beside it, given as JSON, and gives the keys of the file."""

    def write(document, vocab_size=VOCAB, **others):
        files = []
        for name, content in {"tokenizer": document, **others}.items():
            files.append(tmp_path / f"{name}.json")
            files[-1].write_text(json.dumps(content))
        model = twin(dataclasses.replace(TWINS["qwen3"], vocab_size=vocab_size))
        (tmp_path / "model.gguf").unlink(missing_ok=True)
        write_gguf(model._replace(files=tuple(files)), tmp_path / "model.gguf")
        fields = gguf.GGUFReader(tmp_path / "model.gguf").fields
        names = {name: field.contents() for name, field in fields.items()}
        return {name.removeprefix("tokenizer.ggml."): value for name, value in names.items() if "tokenizer" in name}

    return write


def ours(config=None, **changes):
    """A tokenizer.json of ours, with some of its parts changed."""
    config = config or BPETokenizerConfig(vocab_size=290)
    return json.loads(config.build(TEXT).model.to_str()) | changes


def cut_by(*patterns, **model):
    """With these words, and with this changed in its model."""
    steps = [{"type": "Split", "pattern": {"Regex": one}, "behavior": "Isolated", "invert": False} for one in patterns]
    last = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    document = ours(pre_tokenizer={"type": "Sequence", "pretokenizers": [*steps, last]})
    document["model"] |= model
    return document


def test_our_own(written):
    document = ours()
    found = written(document)
    assert (found["model"], found["pre"]) == ("gpt2", "gpt-2")
    assert [found["tokens"].index(name) for name in document["model"]["vocab"]] == list(
        document["model"]["vocab"].values()
    )
    assert found["merges"] == [" ".join(pair) for pair in document["model"]["merges"]]
    assert found["eos_token_id"] == found["bos_token_id"] == 256
    assert (found["add_bos_token"], found["add_eos_token"]) == (False, False)
    known = len(document["model"]["vocab"])
    assert found["token_type"] == [1] * 256 + [3] + [1] * (known - 257) + [5] * (VOCAB - known)


def test_bytes_alone_have_merges_that_merge_nothing(written):
    found = written(ours(ByteTokenizerConfig()))
    assert (found["pre"], found["merges"]) == ("gpt-2", [""])


def test_without_a_tokenizer_llama_cpp_takes_ids(tmp_path):
    write_gguf(twin(TWINS["qwen3"]), tmp_path / "model.gguf")
    assert gguf.GGUFReader(tmp_path / "model.gguf").fields["tokenizer.ggml.model"].contents() == "no_vocab"


def test_ends_are_those_that_the_files_beside_name(written):
    found = written(
        ours(), tokenizer_config={"eos_token": {"content": "Ġ"}, "bos_token": "a", "chat_template": "{{x}}"}
    )
    vocab = ours()["model"]["vocab"]
    assert (found["eos_token_id"], found["bos_token_id"]) == (vocab["Ġ"], vocab["a"])
    assert found["tokenizer.chat_template"] == "{{x}}"
    found = written(ours(), generation_config={"eos_token_id": [0, 8], "pad_token_id": 9})
    assert (found["eos_token_id"], found["bos_token_id"], found["padding_token_id"]) == (0, 0, 9)


def test_an_end_that_the_tokenizer_adds_itself_is_added_by_llama_cpp(written):
    end = {"id": "<|end|>", "ids": [256], "tokens": ["<|end|>"]}
    single = [{"SpecialToken": {"id": "<|end|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    pair = [*single, {"Sequence": {"id": "B", "type_id": 1}}]
    template = {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": {"<|end|>": end}}
    found = written(ours(post_processor=template))
    assert (found["add_bos_token"], found["add_eos_token"]) == (True, False)
    overruled = {"add_bos_token": False, "add_eos_token": True}
    found = written(ours(post_processor=template), tokenizer_config=overruled)
    assert (found["add_bos_token"], found["add_eos_token"]) == (False, True)


@pytest.mark.parametrize("words", KNOWN, ids=lambda words: words.name)
def test_words_are_recognised_by_what_they_are_cut_by(words, written):
    document = cut_by(*words.patterns, ignore_merges=words.whole_first)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert written(document)["pre"] == words.name
    assert len(said) == words.approximate


def test_digits_one_by_one_are_a_known_way(written):
    steps = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    model = tokenizers.Tokenizer(BPE())
    model.pre_tokenizer = pre_tokenizers.Sequence(steps)
    assert written(ours(pre_tokenizer=json.loads(model.to_str())["pre_tokenizer"]))["pre"] == "refact"


def test_whole_words_first_makes_no_difference_where_merges_lead_to_every_token(written):
    assert written(cut_by(*KNOWN[0].patterns, ignore_merges=True))["pre"] == "gpt-2"
    document = cut_by(*KNOWN[0].patterns, ignore_merges=True)
    document["model"]["vocab"]["zqz"] = 295
    with pytest.raises(ValueError, match=r"every token must come of merges.*'zqz'"):
        written(document)


def test_a_normal_form_that_llama_cpp_does_not_make_is_said(written):
    for normalizer in ({"type": "NFC"}, {"type": "Sequence", "normalizers": [{"type": "NFC"}]}):
        with pytest.warns(UserWarning, match="NFC"):
            written(ours(normalizer=normalizer))
    written(ours(normalizer={"type": "Sequence", "normalizers": []}))  # DeepSeek-V3's


REFUSED = {
    "words of its own": (ours(pre_tokenizer={"type": "Whitespace"}), "must cut words like gpt-2, refact,"),
    "another pattern": (cut_by(r"\w+"), "must cut words like"),
    "no words": (cut_by(), "must cut words like"),
    "lower case": (ours(normalizer={"type": "Lowercase"}), "no normalizer"),
    "lower case among others": (
        ours(normalizer={"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]}),
        "no normalizer that llama.cpp does not have, got NFC, Lowercase",
    ),
    "no tokenizer": ([1, 2], "must be a JSON object, got list"),
    "no model": ({}, "must be a byte-level BPE"),
    "not of bytes": (ours(decoder={"type": "Fuse"}), "must be a byte-level BPE, got BPE with decoder Fuse"),
    "no end": (ours(added_tokens=[]), "tokenizer: must name the token that ends a text"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name_with_nothing_written(name, written, tmp_path):
    document, message = REFUSED[name]
    if name == "no end":
        document["model"]["vocab"].pop("<|end|>")
    with pytest.raises(ValueError, match=message):
        written(document)
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]


def test_more_tokens_than_the_model_knows_are_refused(written):
    with pytest.raises(ValueError, match="tokenizer: at most the model's vocab_size=280 tokens, got 2"):
        written(ours(), vocab_size=280)
