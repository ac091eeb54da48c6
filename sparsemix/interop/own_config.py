"""What a folder of our own format says beside the model, so that transformers and what builds on it can load it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sparsemix.config import to_json
from sparsemix.files import write_text
from sparsemix.models import DecoderConfig

FORMAT_VERSION = 1
STUBS = {"configuration_sparsemix": "SparsemixConfig", "modeling_sparsemix": "SparsemixForCausalLM"}
"""Files of remote code, and the class that each takes from this package: code of ours is never copied."""
AUTO_MAP = {auto: f"{file}.{name}" for auto, (file, name) in zip(("AutoConfig", "AutoModelForCausalLM"), STUBS.items())}
"""Where transformers looks with trust_remote_code=True."""


def own_config(model: DecoderConfig, **others: Any) -> dict[str, Any]:
    """The contents of config.json; `others` are dtype, eos_token_id and the like."""
    return {
        "model_type": "sparsemix",
        "architectures": ["SparsemixForCausalLM"],
        "auto_map": AUTO_MAP,
        "format_version": FORMAT_VERSION,
        "model": json.loads(to_json(model)),
        **derived_fields(model),
        **others,
    }


def derived_fields(model: DecoderConfig) -> dict[str, Any]:
    """What libraries expect in the config of any language model, under the names that they look for."""
    return {
        "vocab_size": model.vocab_size,
        "hidden_size": model.dim,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.attention.num_heads,
        "max_position_embeddings": model.context,
        "tie_word_embeddings": model.tie_embeddings,
    }


def write_stubs(folder: Path) -> None:
    """Write the files that trust_remote_code=True runs: an import each."""
    for file, name in STUBS.items():
        text = f'"""For trust_remote_code: pip install sparsemix."""\n\nfrom sparsemix.interop.hf_model import {name}\n'
        write_text(folder / f"{file}.py", f"{text}\n__all__ = ['{name}']\n")
