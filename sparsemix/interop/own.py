"""Our own format: a folder that says all of a model, for what no other library has a family of."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsemix.checks import check
from sparsemix.config import from_json, to_json
from sparsemix.files import new_folder
from sparsemix.interop.agree import check_tensors
from sparsemix.interop.decoders import decoder_specs, model_dtype
from sparsemix.interop.remote_code import AUTO_MAP, write_stubs
from sparsemix.interop.stored import StoredModel
from sparsemix.models import DecoderConfig
from sparsemix.runs import FORMAT_VERSION
from sparsemix.runs.errors import writing
from sparsemix.runs.versions import migrated
from sparsemix.tensors import open_folder, write_folder

MODEL_TYPE, ARCHITECTURE = "sparsemix", "SparsemixForCausalLM"
CONFIG, FACTS, GENERATION = "config.json", "training.json", "generation_config.json"
TOKENIZER, SETTINGS = "tokenizer.json", "tokenizer_config.json"
TOKENIZER_FILES = (
    TOKENIZER,
    SETTINGS,
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")
"""What config.json says of tokens; `facts["special_tokens"]` keeps it."""
NO_ROOM = "free space, or choose another folder"


def write_own(model: StoredModel, out: Path) -> None:
    """Write the model into `out`, which is new or an empty folder: complete, or not at all.

    Raises:
        ValueError: `out` is not free, the tensors are not those of the config, or the disk is full.
    """
    check_free(out)
    check_tensors(model.tensors.specs, decoder_specs(model.config), "model")
    with writing(out, NO_ROOM), new_folder(out) as folder:
        write_folder(model.tensors, folder)
        write_stubs(folder)
        copy_along(model, folder)
        write_json(folder / FACTS, dict(model.facts))
        write_json(folder / CONFIG, own_config(model))


def open_own(folder: Path, document: dict[str, Any]) -> StoredModel:
    """The model in a folder of our own format, whose config.json is `document`.

    Raises:
        ValueError: it is of a newer version, its config or its tensors are damaged, or they disagree.
    """
    where = str(folder / CONFIG)
    document = migrated("config", document, document.get("format_version"), where)
    config = from_json(DecoderConfig, json.dumps(document.get("model")), f"{where}: model")
    check_derived(config, document, f"{where}: ")
    tensors = open_folder(folder)
    check_tensors(tensors.specs, decoder_specs(config), str(folder))
    facts = read_object(folder / FACTS) if (folder / FACTS).is_file() else _said_beside(document)
    return StoredModel(config, tensors, MODEL_TYPE, files_along(folder), facts)


def own_config(model: StoredModel) -> dict[str, Any]:
    """The model's config, and beside it what other libraries look for."""
    config, losses = model.config, model.facts.get("balance_losses")
    return {
        "architectures": [ARCHITECTURE],
        "model_type": MODEL_TYPE,
        "format_version": FORMAT_VERSION,
        "dtype": str(model_dtype(model)).removeprefix("torch."),
        "auto_map": AUTO_MAP,
        **derived_fields(config),
        **model.facts.get("special_tokens", {}),
        **({} if losses is None else {"balance_losses": losses}),
        "model": json.loads(to_json(config)),
    }


def derived_fields(config: DecoderConfig) -> dict[str, Any]:
    """What libraries expect in the config of any language model, under the names that they look for."""
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.attention.num_heads,
        "max_position_embeddings": config.context,
        "tie_word_embeddings": config.tie_embeddings,
    }


def check_derived(config: DecoderConfig, document: Mapping[str, Any], where: str = "") -> None:
    """Raise `ValueError` if a number beside the model contradicts it; `where` goes before its name."""
    for name, value in derived_fields(config).items():
        seen = document.get(name, value)
        check(seen == value, f"{where}{name}", f"must be {value}, as in model", repr(seen), "correct the config")


def given_tokens(document: Mapping[str, Any]) -> dict[str, Any]:
    """The special tokens that a config.json names."""
    return {name: document[name] for name in SPECIAL if document.get(name) is not None}


def _said_beside(document: Mapping[str, Any]) -> dict[str, Any]:
    """What config.json says of facts, where transformers has saved the model and knows of no others."""
    losses = document.get("balance_losses")
    return {"special_tokens": given_tokens(document)} | ({} if losses is None else {"balance_losses": losses})


def files_along(folder: Path) -> tuple[Path, ...]:
    """The tokenizer and generation settings in a folder."""
    return tuple(folder / name for name in (*TOKENIZER_FILES, GENERATION) if (folder / name).is_file())


def copy_along(model: StoredModel, folder: Path) -> None:
    """Put the model's tokenizer and generation settings into a folder."""
    for file in model.files:
        shutil.copyfile(file, folder / file.name)


def check_free(out: Path) -> None:
    """Raise `ValueError` unless `out` is a new or an empty folder, which a finished one can be put in place of."""
    check(out.resolve() != Path.cwd(), "out", "must not be the current folder", out, "name a new one in it")
    free = not out.exists() or (out.is_dir() and not any(out.iterdir()))
    check(free, "out", "must be a new or an empty folder", f"{out} with other things", "choose another")


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write an object, indented."""
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ValueError: it is none.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: must be JSON, got {error}; restore the file") from None
    check(isinstance(document, dict), str(path), "must be a JSON object", type(document).__name__, "restore the file")
    return document
