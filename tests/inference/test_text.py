"""Text generation: stop strings, also across tokens, and the end of a document."""

import pytest
import torch
from models.examples import small_config

from sparsemix.inference import generate_text
from sparsemix.models import AttentionConfig, Decoder


class Letters:
    """Token i is the i-th letter; the last one ends a document."""

    alphabet = "abcdefghijklmnopqrstuvwxyz"
    end_id = 26

    def encode_prompt(self, text):
        return [self.alphabet.index(letter) for letter in text] or [self.end_id]

    def decode(self, tokens):
        return "".join(self.alphabet[token] for token in tokens)


@pytest.fixture
def successor() -> Decoder:
    """After each letter comes the next, after z the end, after the end a: the blocks add nothing."""
    decoder = small_config(
        vocab_size=27, dim=27, num_layers=2, attention=AttentionConfig(num_heads=1, head_dim=4)
    ).build()
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if name.endswith("output.weight") or ".down" in name:
                parameter.zero_()
        decoder.embedding.weight.copy_(torch.eye(27))
        decoder.unembedding.weight.copy_(torch.eye(27).roll(1, 0))
    return decoder


def continue_text(decoder, prompts, **settings):
    return generate_text(decoder, Letters(), prompts, **({"max_new_tokens": 10, "temperature": 0} | settings))


def test_plain(successor):
    assert continue_text(successor, ["abc", "k"]) == ["defghijklm", "lmnopqrstu"]


def test_the_end_of_the_document_ends_the_text(successor):
    assert continue_text(successor, ["w", "a"]) == ["xyz", "bcdefghijk"]


def test_an_empty_prompt_begins_a_document(successor):
    assert continue_text(successor, [""]) == ["abcdefghij"]


def test_stop_strings_are_cut_off_also_across_tokens(successor):
    assert continue_text(successor, ["a", "e"], stop=["fgh", "no"]) == ["bcde", ""]


def test_the_first_stop_string_counts(successor):
    assert continue_text(successor, ["a"], stop=["ef", "cd"]) == ["b"]


def test_generation_stops_where_the_text_does(successor):
    lengths = []
    successor.register_forward_hook(lambda module, inputs, output: lengths.append(inputs[0].shape[1]))
    continue_text(successor, ["a"], stop=["cd"])
    assert len(lengths) == 3


def test_an_empty_stop_string_is_refused(successor):
    with pytest.raises(ValueError, match=r"stop: must be strings that are not empty, got \[''\]"):
        continue_text(successor, ["a"], stop=[""])
