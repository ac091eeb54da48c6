"""The tokenizer in a GGUF file: tokens, merges, and where llama.cpp is to cut text into words before merging."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tokenizers

from sparsemix.checks import check
from sparsemix.data.tokenizer import END
from sparsemix.interop.gguf.metadata import Value
from sparsemix.interop.gguf.words import merges, words_like

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
    if "tokenizer.json" not in named:
        return {"tokenizer.ggml.model": "no_vocab"}
    path = named["tokenizer.json"]
    document, model = _read(path), tokenizers.Tokenizer.from_file(str(path))
    _check_byte_level(document, path)
    tokens, types = _tokens(model, vocab_size)
    found: dict[str, Value] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": words_like(document, path),
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": [" ".join(pair) for pair in merges(document)] or NOTHING,
    }
    return found | _ends(named, model) | _chat(named)


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _check_byte_level(document: dict[str, Any], path: Path) -> None:
    kind, decoder = document["model"].get("type", "BPE"), (document.get("decoder") or {}).get("type")
    rule, remedy = "must be a byte-level BPE", "export without the tokenizer, and give llama.cpp token ids"
    check((kind, decoder) == ("BPE", "ByteLevel"), str(path), rule, f"{kind} with decoder {decoder}", remedy)
    normalizer = document.get("normalizer")
    unicode_only = normalizer is None or normalizer["type"] == "NFC"
    check(unicode_only, str(path), "no normalizer that llama.cpp does not have", normalizer, remedy)
    if normalizer is not None:
        warnings.warn("normalizer: llama.cpp does not bring text into the form NFC; do it before", stacklevel=2)


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
    """The ends of a text, and which of them `encode` adds. llama.cpp would take token 11 for what it is not told."""
    eos = _special(named, model, "eos")
    eos = model.token_to_id(END) if eos is None else eos
    check(eos is not None, "tokenizer", "must name the token that ends a text", "none", "add a tokenizer_config.json")
    assert eos is not None
    bos = _special(named, model, "bos")
    plain, whole = (model.encode("a", add_special_tokens=add).ids for add in (False, True))
    found: dict[str, Value] = {
        "tokenizer.ggml.eos_token_id": eos,
        "tokenizer.ggml.bos_token_id": eos if bos is None else bos,
        "tokenizer.ggml.add_bos_token": whole[0] != plain[0],
        "tokenizer.ggml.add_eos_token": whole[-1] != plain[-1],
    }
    pad = _special(named, model, "pad")
    return found if pad is None else found | {"tokenizer.ggml.padding_token_id": pad}


def _special(named: dict[str, Path], model: tokenizers.Tokenizer, kind: str) -> int | None:
    """The id of a special token, from the files beside the tokenizer that say it."""
    if "tokenizer_config.json" in named:
        token = _read(named["tokenizer_config.json"]).get(f"{kind}_token")
        name = token["content"] if isinstance(token, dict) else token
        if name is not None:
            return model.token_to_id(name)
    if "generation_config.json" in named:
        index = _read(named["generation_config.json"]).get(f"{kind}_token_id")
        return index[0] if isinstance(index, list) else index
    return None


def _chat(named: dict[str, Path]) -> dict[str, Value]:
    """The chat template, where there is one."""
    if "chat_template.jinja" in named:
        return {"tokenizer.chat_template": named["chat_template.jinja"].read_text(encoding="utf-8")}
    template = _read(named["tokenizer_config.json"]).get("chat_template") if "tokenizer_config.json" in named else None
    return {"tokenizer.chat_template": template} if isinstance(template, str) else {}
