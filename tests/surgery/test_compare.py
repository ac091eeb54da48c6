"""Two models compared on text: the numbers are those of all logits at once."""

from __future__ import annotations

import importlib
import math
from dataclasses import replace

import pytest
import torch
from models.examples import random_tokens
from surgery.examples import logits, small_model

from sparsemix.data import BPETokenizerConfig, ByteTokenizerConfig
from sparsemix.surgery.compare import compare
from sparsemix.surgery.text import Text, TextConfig
from sparsemix.tensors import Held

compare_module = importlib.import_module("sparsemix.surgery.compare")  # whose name in the room is the function's


def test_the_numbers_are_those_of_all_logits_at_once(monkeypatch):
    monkeypatch.setattr(compare_module, "LOGITS", 50 * 4)  # four tokens at a time
    (before, one), (after, other) = small_model(seed=0), small_model(seed=1)
    text = Text(random_tokens(3, 10), num_bytes=100)
    found = compare(before, after, text)
    a_BSV, b_BSV = (logits(decoder, text.tokens_BS)[:, :-1] for decoder in (one, other))
    p_BSV, q_BSV = a_BSV.softmax(-1), b_BSV.softmax(-1)
    targets_BS = text.tokens_BS[:, 1:, None]
    losses = [-probs.gather(-1, targets_BS).log().mean().item() for probs in (p_BSV, q_BSV)]
    assert found.max_abs_logit == pytest.approx((a_BSV - b_BSV).abs().max().item())
    assert found.kl == pytest.approx((p_BSV * (p_BSV / q_BSV).log()).sum(-1).mean().item())
    assert (found.loss_before, found.loss_after) == pytest.approx(losses)
    bits = [loss * 27 / 100 / math.log(2) for loss in losses]
    assert (found.bits_per_byte_before, found.bits_per_byte_after) == pytest.approx(bits)


def test_a_model_is_as_far_from_itself_as_nothing():
    model, _ = small_model()
    found = compare(model, model, Text(random_tokens(2, 8), 10))
    assert found.max_abs_logit == 0
    assert found.kl == 0


def test_a_logit_that_is_not_a_number_is_no_small_change():
    model, decoder = small_model()
    broken = {**decoder.state_dict(), "norm.weight": decoder.norm.weight.detach() * torch.nan}
    found = compare(model, model._replace(tensors=Held(broken)), Text(random_tokens(2, 8), 10))
    assert math.isnan(found.max_abs_logit)


def test_other_vocabularies_are_refused():
    with pytest.raises(ValueError, match="vocab_size: must be that of both models, got 50 and 60"):
        compare(small_model()[0], small_model(vocab_size=60)[0], Text(random_tokens(2, 8), 10))


@pytest.fixture
def with_tokenizer(tmp_path):
    def made(tokenizer):
        path = tmp_path / "tokenizer.json"
        tokenizer.save(path)
        return small_model(vocab_size=tokenizer.vocab_size)[0]._replace(files=(path,))

    return made


def test_text_is_rows_of_the_source_in_the_tokens_of_the_model(with_tokenizer, tmp_path):
    source = tmp_path / "text.txt"
    source.write_text("Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. " * 20)
    model = with_tokenizer(ByteTokenizerConfig().build([]))
    text = TextConfig(sources=(str(source),), tokens=96, row=32).read(model)
    assert text.tokens_BS.shape == (3, 32)
    assert text.tokens_BS[0].tolist() == list(source.read_bytes()[:32])
    assert all(bytes(row.tolist()) in source.read_bytes() for row in text.tokens_BS)
    assert len({tuple(row.tolist()) for row in text.tokens_BS}) == 3
    characters = [bytes(row.tolist()[1:]).decode(errors="ignore") for row in text.tokens_BS]
    assert abs(text.num_bytes - sum(len(row.encode()) for row in characters)) <= 6  # characters cut in two
    assert TextConfig(sources=(str(source),), tokens=96, row=32).read(model).tokens_BS.equal(text.tokens_BS)


def test_bytes_are_counted_whatever_a_token_stands_for(with_tokenizer, tmp_path):
    source = tmp_path / "text.txt"
    source.write_text("the cat and the dog and the cat again. " * 40)
    tokenizer = BPETokenizerConfig(vocab_size=280).build([source.read_text()])
    text = TextConfig(sources=(str(source),), tokens=64, row=16).read(with_tokenizer(tokenizer))
    assert text.num_bytes == sum(len(tokenizer.decode(row[1:].tolist())) for row in text.tokens_BS)


def test_rows_are_no_longer_than_the_context(with_tokenizer):
    model = with_tokenizer(ByteTokenizerConfig().build([]))
    assert TextConfig(tokens=256).read(model).tokens_BS.shape == (4, 64)


def test_text_that_is_too_short_and_a_model_without_tokenizer_are_refused(with_tokenizer, tmp_path):
    source = tmp_path / "text.txt"
    source.write_text("short")
    settings = TextConfig(sources=(str(source),), row=32)
    with pytest.raises(ValueError, match="text: must have a row of tokens, got 5 tokens; give more of it"):
        settings.read(with_tokenizer(ByteTokenizerConfig().build([])))
    with pytest.raises(ValueError, match=r"tokenizer: must be in the model.s folder, as tokenizer.json, got none"):
        settings.read(small_model()[0])


def test_a_tokenizer_of_more_tokens_than_the_model_has_is_refused(with_tokenizer, tmp_path):
    source = tmp_path / "text.txt"
    source.write_text("z" * 100)
    model = with_tokenizer(ByteTokenizerConfig().build([]))
    smaller = model._replace(config=replace(model.config, vocab_size=100))
    with pytest.raises(ValueError, match="tokenizer: must give ids that the model has, got 122 with vocab_size=100"):
        TextConfig(sources=(str(source),), row=32).read(smaller)


def test_logits_never_exist_for_all_tokens_at_once(monkeypatch):
    monkeypatch.setattr(compare_module, "LOGITS", 50 * 4)
    most = []
    log_softmax = torch.Tensor.log_softmax
    monkeypatch.setattr(torch.Tensor, "log_softmax", lambda x, dim: most.append(len(x)) or log_softmax(x, dim))
    model, _ = small_model()
    compare(model, model, Text(random_tokens(3, 10), 10))
    assert max(most) == 4
