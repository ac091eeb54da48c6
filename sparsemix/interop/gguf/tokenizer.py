"""The tokenizer in a GGUF file: tokens, merges, and where llama.cpp is to cut text into words before merging."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tokenizers

from sparsemix.checks import check
from sparsemix.data.tokenizer import END
from sparsemix.interop.gguf.metadata import Value
from sparsemix.interop.gguf.words import merges, words_like
from sparsemix.interop.own import GENERATION, read_object
from sparsemix.interop.tokenizer_files import SETTINGS, TOKENIZER

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
NOTHING = [""]
"""Merges of a tokenizer without any: llama.cpp wants a list, which GGUF does not let be empty; this merges nothing."""


def vocabulary(files: Sequence[Path], vocab_size: int) -> dict[str, Value]:
    """Keys and values of a byte-level tokenizer.json; without one, llama.cpp is told to take token ids only.

    Args:
        files: of the model; tokenizer_config.json and generation_config.json say which token ends a text.
        vocab_size: rows of the embedding; those beyond the tokens are filled with unused ones.

    Raises:
        ValueError: it is not byte-level, has more tokens than the model, names no end, or cuts words as llama.cpp
            cannot.
    """
    named = {path.name: path for path in files}
    if TOKENIZER not in named:
        return {"tokenizer.ggml.model": "no_vocab"}
    path = named[TOKENIZER]
    document = read_object(path)
    _check_byte_level(document, path)
    model = tokenizers.Tokenizer.from_file(str(path))
    tokens, types = _tokens(model, vocab_size)
    found: dict[str, Value] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": words_like(document, path),
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": [" ".join(pair) for pair in merges(document)] or NOTHING,
    }
    return found | _ends(named, model) | _chat(named)


def _check_byte_level(document: dict[str, Any], path: Path) -> None:
    model, decoder = document.get("model") or {}, (document.get("decoder") or {}).get("type")
    kind, remedy = model.get("type", "BPE"), "move the file away, and give llama.cpp token ids"
    seen = f"{kind} with decoder {decoder}"
    check(
        (kind, decoder) == ("BPE", "ByteLevel") and "merges" in model,
        str(path),
        "must be a byte-level BPE",
        seen,
        remedy,
    )
    normalizers = _normalizers(document.get("normalizer"))
    rule = "no normalizer that llama.cpp does not have"
    check(set(normalizers) <= {"NFC"}, str(path), rule, ", ".join(normalizers), remedy)
    if normalizers:
        warnings.warn("normalizer: llama.cpp does not bring text into the form NFC; do it before", stacklevel=2)


def _normalizers(step: dict[str, Any] | None) -> list[str]:
    """Their types; DeepSeek-V3's tokenizer has an empty sequence of them."""
    if step is None:
        return []
    if step["type"] == "Sequence":
        return [name for part in step["normalizers"] for name in _normalizers(part)]
    return [step["type"]]


def _tokens(model: tokenizers.Tokenizer, vocab_size: int) -> tuple[list[str], list[int]]:
    """Names by id, and their types; ids without a name are unused."""
    vocab, added = model.get_vocab(with_added_tokens=True), model.get_added_tokens_decoder()
    rule, remedy = f"at most the model's vocab_size={vocab_size} tokens", "use the model's own tokenizer"
    check(max(vocab.values()) < vocab_size, "tokenizer", rule, max(vocab.values()) + 1, remedy)
    tokens = [f"[unused{index}]" for index in range(vocab_size)]
    types = [UNUSED] * vocab_size
    for name, index in vocab.items():
        tokens[index] = name
        special = index in added and added[index].special
        types[index] = CONTROL if special else USER_DEFINED if index in added else NORMAL
    return tokens, types


def _ends(named: dict[str, Path], model: tokenizers.Tokenizer) -> dict[str, Value]:
    """The ends of a text, and which of them are added to it. llama.cpp would take token 11 for what it is not told."""
    eos = _special(named, model, "eos")
    eos = model.token_to_id(END) if eos is None else eos
    check(eos is not None, "tokenizer", "must name the token that ends a text", "none", "add a tokenizer_config.json")
    assert eos is not None
    bos = _special(named, model, "bos")
    plain, whole = (model.encode("a", add_special_tokens=add).ids for add in (False, True))
    found: dict[str, Value] = {
        "tokenizer.ggml.eos_token_id": eos,
        "tokenizer.ggml.bos_token_id": eos if bos is None else bos,
        "tokenizer.ggml.add_bos_token": _setting(named, "add_bos_token", whole[0] != plain[0]),
        "tokenizer.ggml.add_eos_token": _setting(named, "add_eos_token", whole[-1] != plain[-1]),
    }
    pad = _special(named, model, "pad")
    return found if pad is None else found | {"tokenizer.ggml.padding_token_id": pad}


def _setting(named: dict[str, Path], key: str, otherwise: bool) -> bool:
    """What tokenizer_config.json says: for transformers it overrules what tokenizer.json does by itself."""
    said = read_object(named[SETTINGS]).get(key) if SETTINGS in named else None
    return said if isinstance(said, bool) else otherwise


def _special(named: dict[str, Path], model: tokenizers.Tokenizer, kind: str) -> int | None:
    """The id of a special token, from the files beside the tokenizer that say it."""
    if SETTINGS in named:
        token = read_object(named[SETTINGS]).get(f"{kind}_token")
        name = token["content"] if isinstance(token, dict) else token
        if name is not None:
            return model.token_to_id(name)
    if GENERATION in named:
        index = read_object(named[GENERATION]).get(f"{kind}_token_id")
        return index[0] if isinstance(index, list) else index
    return None


def _chat(named: dict[str, Path]) -> dict[str, Value]:
    """The chat template, where there is one."""
    if "chat_template.jinja" in named:
        return {"tokenizer.chat_template": named["chat_template.jinja"].read_text(encoding="utf-8")}
    template = read_object(named[SETTINGS]).get("chat_template") if SETTINGS in named else None
    return {"tokenizer.chat_template": template} if isinstance(template, str) else {}
