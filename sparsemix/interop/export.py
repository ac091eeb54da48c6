"""A model leaves as a folder that transformers loads: of a family that can say it, or in our own format."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from sparsemix.checks import check
from sparsemix.files import new_folder
from sparsemix.interop.agree import check_tensors
from sparsemix.interop.card import model_card
from sparsemix.interop.decoders import cast, decoder_specs
from sparsemix.interop.families import matching_family, theirs
from sparsemix.interop.own import CONFIG, FACTS, MODEL_TYPE, NO_ROOM, check_free, own_config, write_json
from sparsemix.interop.remote_code import write_stubs
from sparsemix.interop.stored import StoredModel
from sparsemix.interop.tokenizer_files import special_tokens, write_tokenizer
from sparsemix.runs.errors import writing
from sparsemix.tensors import write_folder

Format = Literal["auto", "hf", "sparsemix"]


def export_model(model: StoredModel, out: Path, format: Format = "auto", dtype: torch.dtype | None = None) -> str:
    """Write weights, config, tokenizer, generation settings and a model card; nothing of an optimiser.

    Tensor by tensor, with the memory of few of them; complete, or not at all.

    Args:
        model: what `open_model` gives.
        out: a new or an empty folder.
        format: hf: a family of transformers' own; sparsemix: our own format, which this package makes loadable;
            auto: the former where there is one.
        dtype: of the tensors, but for those of routers, which are at least float32; None: as they are.

    Returns:
        The family, or `sparsemix`.

    Raises:
        ValueError: `out` is not free, no family can say the model, or its tensors are not those of its config.
    """
    family = MODEL_TYPE if format == "sparsemix" else matching_family(model.config)
    rule, remedy = "must be auto or sparsemix for this model, which no family can say", "choose one of them"
    check(family is not None or format != "hf", "format", rule, format, remedy)
    family = family or MODEL_TYPE
    check_free(out)
    check_tensors(model.tensors.specs, decoder_specs(model.config), "model")
    model = model if dtype is None else cast(model, dtype)
    document, tensors = (own_config(model), model.tensors) if family == MODEL_TYPE else theirs(model, family)
    with writing(out, NO_ROOM), new_folder(out) as folder:
        write_folder(tensors, folder)
        write_tokenizer(model, folder)
        if family == MODEL_TYPE:
            write_stubs(folder)
            write_json(folder / FACTS, dict(model.facts))
        tokens = special_tokens(model)
        write_json(folder / CONFIG, {key: value for key, value in document.items() if key not in tokens} | tokens)
        (folder / "README.md").write_text(model_card(model, out.resolve().name, family), encoding="utf-8")
    return family
