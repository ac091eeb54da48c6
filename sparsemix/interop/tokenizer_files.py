"""The tokenizer of a model as transformers wants it in a folder, and which ids begin, end and pad texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sparsemix.data.tokenizer import END
from sparsemix.interop.own import GENERATION, SETTINGS, SPECIAL, TOKENIZER, copy_along, read_object, write_json
from sparsemix.interop.stored import StoredModel


def special_tokens(model: StoredModel) -> dict[str, Any]:
    """bos, eos and pad ids, None where there is none: left out, transformers would take a family's defaults.

    A tokenizer of ours has the end of a document alone, which also pads.
    """
    nothing: dict[str, Any] = dict.fromkeys(SPECIAL)
    if "special_tokens" in model.facts:
        return nothing | dict(model.facts["special_tokens"])
    end = _id_of(END, model)
    return nothing if end is None else nothing | {"eos_token_id": end, "pad_token_id": end}


def write_tokenizer(model: StoredModel, folder: Path) -> None:
    """Write tokenizer and generation settings: those that came with the model, and for a tokenizer of ours new ones."""
    copy_along(model, folder)
    there = {file.name for file in model.files}
    tokens = {name: number for name, number in special_tokens(model).items() if number is not None}
    if TOKENIZER in there and SETTINGS not in there and _id_of(END, model) is not None:
        write_json(folder / SETTINGS, _settings(model))
    if GENERATION not in there:
        uncached = {"use_cache": False} if model.config.depth is not None else {}
        write_json(folder / GENERATION, tokens | uncached)


def _settings(model: StoredModel) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "pad_token": END,
        "model_max_length": model.config.context,
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
    }


def _id_of(token: str, model: StoredModel) -> int | None:
    """Of a special token in the model's tokenizer.json."""
    files = [file for file in model.files if file.name == TOKENIZER]
    added = [one for file in files for one in read_object(file).get("added_tokens", ())]
    return next((one["id"] for one in added if one["content"] == token), None)
