"""Text that is shown as it comes is the text that is returned at once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsemix.cli.streaming import _Shown, stream_text
from sparsemix.data import ByteTokenizerConfig
from sparsemix.experts import GLUExpertsConfig
from sparsemix.inference import generate_text
from sparsemix.models import AttentionConfig, DecoderConfig

TOKENIZER = ByteTokenizerConfig().build([])


@pytest.fixture(scope="module")
def model():
    attention, ffn = AttentionConfig(num_heads=2), GLUExpertsConfig(hidden=8)
    return DecoderConfig(vocab_size=257, dim=16, num_layers=1, context=64, attention=attention, ffn=ffn).build(0)


@pytest.mark.parametrize("seed", range(5))
def test_the_same_as_at_once(model, seed):
    settings = {"max_new_tokens": 50, "temperature": 1.2, "top_k": 40, "top_p": 0.9, "seed": seed}
    (whole,) = generate_text(model, TOKENIZER, ["né"], **settings)
    assert len(whole) > 1
    for stop in [(), (whole[5:8],), (whole[3:4], whole[2:6]), (whole[-1:] + "never",)]:
        pieces: list[str] = []
        stream_text(model, TOKENIZER, "né", pieces.append, stop=stop, **settings)
        assert [("".join(pieces))] == generate_text(model, TOKENIZER, ["né"], stop=stop, **settings)


def test_an_empty_stop_string_is_refused(model):
    with pytest.raises(ValueError, match=r"^stop: must be strings that are not empty, got \[''\]"):
        stream_text(model, TOKENIZER, "", print, stop=[""], max_new_tokens=1)


LETTERS = st.text("ab", min_size=1, max_size=3)


@given(st.lists(LETTERS, max_size=12), st.lists(LETTERS, max_size=3))
def test_what_is_shown_is_the_text_before_the_first_stop_and_never_taken_back(parts, stop):
    shown: list[str] = []
    screen = _Shown(shown.append, stop)
    text, ended = "", False
    for part in parts:
        text += part
        ended = screen.add(part)
        if ended:
            break
    if not ended:
        screen.finish("")
    cut = min((text.find(string) for string in stop if string in text), default=len(text))
    assert "".join(shown) == text[:cut]
    assert ended == any(string in text for string in stop)


def test_only_what_may_become_a_stop_string_is_held_back():
    shown: list[str] = []
    screen = _Shown(shown.append, ["END", "\n\n"])
    for part in ("one E", "N", "X two\n"):
        screen.add(part)
    assert shown == ["one ", "ENX two"]
    screen.finish("")
    assert shown[-1] == "\n"
