"""Tokenizers that lose nothing: bytes, or byte pairs merged by frequency; ids 0 to 255 are the bytes."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from hashlib import sha256
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pydantic
import tokenizers
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from sparsemix.checks import check
from sparsemix.config import config
from sparsemix.files import write_text

END = "<|end|>"
END_ID = 256
SETTINGS = "tokenizer_config.json"


class Tokenizer:
    """Text to token ids and back; `decode(encode(text)) == text` for every text.

    The literal text of a special token is encoded as plain text: only the end of a document gets `end_id`.

    >>> tokenizer = ByteTokenizerConfig().build([])
    >>> tokenizer.encode("hé"), tokenizer.decode([104, 195, 169])
    ([104, 195, 169], 'hé')
    """

    def __init__(self, model: tokenizers.Tokenizer, end: str = END):
        """Wrap a byte-level tokenizer of the `tokenizers` library; `end` is its end of a document."""
        end_id = model.token_to_id(end)
        check(end_id is not None, "tokenizer", "must have the end token", f"no {end!r}", "name its end token")
        assert end_id is not None
        model.encode_special_tokens = True
        self.model = model
        self.end = end
        self.end_id: int = end_id
        self.token_bytes: list[bytes] = _token_bytes(model)
        """The bytes that each id stands for; special tokens stand for none."""

    @property
    def vocab_size(self) -> int:
        """How many ids there are, `end_id` among them."""
        return len(self.token_bytes)

    @cached_property
    def bytes_per_token_V(self) -> np.ndarray:
        """How many bytes of UTF-8 each id stands for, (V) int64; for bits per byte."""
        return np.array([len(token) for token in self.token_bytes], dtype=np.int64)

    @cached_property
    def fingerprint(self) -> str:
        """The same for two tokenizers that do the same."""
        return sha256(self.model.to_str().encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """The ids of one text, without `end_id`."""
        return self.model.encode(text, add_special_tokens=False).ids

    def encode_prompt(self, text: str) -> list[int]:
        """The ids of a text to be continued, behind what the tokenizer puts before every text, such as Llama's BOS.

        An empty text begins a document: where nothing is put before it, the end of the one before is.
        """
        encoding = self.model.encode("a")
        before = takewhile(lambda one: one[1], zip(encoding.ids, encoding.special_tokens_mask))
        return [index for index, _ in before] + self.encode(text) or [self.end_id]

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of several texts, each (tokens) of an unsigned type; equal to `encode`, but in parallel."""
        if self._is_bytes:
            return [np.frombuffer(text.encode(), dtype=np.uint8) for text in texts]
        encodings = self.model.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.uint32) for encoding in encodings]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids; bytes that are no UTF-8 become U+FFFD, special tokens nothing."""
        return b"".join(bytes_of(index, self.token_bytes) for index in ids).decode("utf-8", errors="replace")

    def stream(self) -> TextStream:
        """A decoder for ids that come one at a time."""
        return TextStream(self.token_bytes)

    def save(self, path: Path) -> None:
        """Write `tokenizer.json`, which the `tokenizers` and `transformers` libraries read too.

        An end of another name than ours is written beside it, as `transformers` does.
        """
        if self.end != END:
            settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": self.end}
            write_text(path.with_name(SETTINGS), json.dumps(settings, indent=2) + "\n")
        write_text(path, self.model.to_str(pretty=True))

    @classmethod
    def load(cls, path: Path, end: str | int | None = None) -> Tokenizer:
        """The tokenizer in a `tokenizer.json`, ours or any byte-level one.

        Args:
            path: the file.
            end: the end of a document, by name or id; None: what `tokenizer_config.json` beside it says, or ours.

        Raises:
            ValueError: no such file, no tokenizer in it, not byte-level, or no such `end`.
        """
        model = read_tokenizer(path)
        if end is None:
            end = _end_beside(path) or END
        return cls(model, end if isinstance(end, str) else model.id_to_token(end) or f"token {end}")

    @cached_property
    def _is_bytes(self) -> bool:
        """Whether ids are bytes and nothing else, so that encoding is a copy."""
        return self.token_bytes == [*(bytes([value]) for value in range(256)), b""]


def read_tokenizer(path: Path) -> tokenizers.Tokenizer:
    """The tokenizer in a `tokenizer.json`, byte-level or not, which takes texts whole.

    Raises:
        ValueError: no such file, or no tokenizer in it.
    """
    try:
        model = tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises plain Exception
        raise ValueError(f"{path}: must be a tokenizer.json, got {error}; check the file") from None
    model.no_truncation()
    model.no_padding()
    return model


class TextStream:
    """Text of ids that come one at a time; a character is given out when its last byte is there.

    >>> stream = ByteTokenizerConfig().build([]).stream()
    >>> [stream.push(index) for index in "né".encode()] + [stream.close()]
    ['n', '', 'é', '']
    """

    def __init__(self, token_bytes: Sequence[bytes]):
        self._token_bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, index: int) -> str:
        """The characters that this id completes, often none."""
        return self._decoder.decode(bytes_of(index, self._token_bytes))

    def close(self) -> str:
        """What is left: U+FFFD if the text broke off inside a character."""
        return self._decoder.decode(b"", final=True)


def bytes_of(index: int, token_bytes: Sequence[bytes]) -> bytes:
    """What an id stands for; nothing if it is past the last, for which many a model has rows all the same."""
    return token_bytes[index] if index < len(token_bytes) else b""


@config
class ByteTokenizerConfig:
    """One token for each byte of UTF-8, and one for the end of a document."""

    type: Literal["bytes"] = "bytes"

    def build(self, texts: Iterable[str]) -> Tokenizer:
        """The tokenizer; it learns nothing from `texts` and does not read them."""
        return _byte_level([])


@config
class BPETokenizerConfig:
    """Byte pairs merged by frequency in the corpus (Sennrich et al. 2016, arXiv 1508.07909)."""

    type: Literal["bpe"] = "bpe"
    vocab_size: Annotated[int, pydantic.Field(ge=257)] = 4096
    """Tokens, the 256 bytes and the end of a document among them; fewer if there is little to merge."""
    sample_characters: Annotated[int, pydantic.Field(ge=1)] = 16 << 20
    """Characters of the corpus to learn from at most: documents taken evenly from all of it."""

    def build(self, texts: Iterable[str]) -> Tokenizer:
        """The tokenizer learnt from `texts`, always the same from the same ones."""
        model = tokenizers.Tokenizer(BPE())
        model.pre_tokenizer = ByteLevel(add_prefix_space=False)
        trainer = BpeTrainer(
            vocab_size=self.vocab_size - 1,  # the end token comes on top
            initial_alphabet=ByteLevel.alphabet(),
            show_progress=False,
        )
        model.train_from_iterator(sample_evenly(texts, self.sample_characters), trainer)
        return _byte_level([(left, right) for left, right in json.loads(model.to_str())["model"]["merges"]])


TokenizerConfig = Annotated[ByteTokenizerConfig | BPETokenizerConfig, pydantic.Field(discriminator="type")]


def sample_evenly(texts: Iterable[str], limit: int) -> list[str]:
    """Every n-th text, n being the least power of two that keeps within `limit` characters (or one text)."""
    kept: list[str] = []
    size, stride = 0, 1
    for index, text in enumerate(texts):
        if index % stride:
            continue
        kept.append(text)
        size += len(text)
        while size > limit and len(kept) > 1:
            kept, stride = kept[::2], stride * 2
            size = sum(map(len, kept))
    return kept


def _byte_level(merges: list[tuple[str, str]]) -> Tokenizer:
    """The tokenizer with these merges: ids 0 to 255 are bytes, 256 is the end, then the merges in order."""
    names = {value: name for name, value in _byte_of_character().items()}
    vocab = {names[value]: value for value in range(256)} | {END: END_ID}
    for left, right in merges:
        vocab.setdefault(left + right, len(vocab))
    model = tokenizers.Tokenizer(BPE(vocab=vocab, merges=merges))
    # Cutting at words only guides merges; without any it would only cost time.
    model.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=bool(merges))
    model.decoder = ByteLevelDecoder()
    model.add_special_tokens([tokenizers.AddedToken(END, special=True, normalized=False)])
    return Tokenizer(model)


def _end_beside(path: Path) -> str | None:
    """The end of a document that `tokenizer_config.json` names: a string, or an object with its content."""
    settings = path.with_name(SETTINGS)
    if not settings.is_file():
        return None
    try:
        end = json.loads(settings.read_text(encoding="utf-8")).get("eos_token")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{settings}: must be a JSON object, got {error}; check the file") from None
    return end.get("content") if isinstance(end, dict) else end


def _byte_of_character() -> dict[str, int]:
    """The byte that each character of the byte-level alphabet stands for: below 256 itself, else a gap."""
    alphabet = sorted(ByteLevel.alphabet())
    gaps = [value for value in range(256) if chr(value) not in alphabet]
    stand_ins = [character for character in alphabet if ord(character) > 255]
    return {character: ord(character) for character in alphabet if ord(character) < 256} | dict(zip(stand_ins, gaps))


def _token_bytes(model: tokenizers.Tokenizer) -> list[bytes]:
    check(
        isinstance(model.decoder, ByteLevelDecoder),
        "tokenizer",
        "must be byte-level",
        f"a tokenizer with decoder {type(model.decoder).__name__}",
        "choose another",
    )
    byte_of = _byte_of_character()
    vocab = model.get_vocab(with_added_tokens=True)
    table = [b""] * (max(vocab.values()) + 1)
    added = model.get_added_tokens_decoder()
    for name, index in vocab.items():
        if index not in added:
            table[index] = bytes(byte_of[character] for character in name)
        elif not added[index].special:
            table[index] = name.encode()
    return table
