"""`sparsemix export`: a model for other libraries, or for llama.cpp."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, cast

import torch
import tyro

from sparsemix.checks import check
from sparsemix.cli.flags import parse, shown_as
from sparsemix.interop import open_model
from sparsemix.interop.export import export_model
from sparsemix.interop.gguf import FileType, write_gguf
from sparsemix.interop.stored import StoredModel
from sparsemix.interop.tokenizer_files import TOKENIZER
from sparsemix.models.counts import count_by_formula

DTypeName = Literal["float32", "bfloat16", "float16", "q8_0"]


@dataclass(frozen=True)
class Export:
    """Write a model for other libraries: weights, config, tokenizer and a model card, nothing of an optimiser."""

    path: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PATH")]
    """Folder of a run, whose last checkpoint is taken, or of a model."""
    out: Annotated[Path, tyro.conf.arg(metavar="PATH")]
    """Where to: a new folder; for gguf, a new file."""
    format: Literal["auto", "hf", "sparsemix", "gguf"] = "auto"
    """hf: a family that transformers knows; sparsemix: a folder that transformers loads with this package; auto: the
    former where there is one for the model. gguf: one file for llama.cpp."""
    dtype: Annotated[DTypeName | None, shown_as("{float32,bfloat16,float16,q8_0}")] = None
    """Of matrices; without, as they are, and float32 for gguf."""


def run(args: list[str]) -> int:
    """Parse, write, say what was written."""
    given = parse(Export, args, verb="export", default=Export(path=tyro.MISSING, out=tyro.MISSING))
    model = open_model(given.path)
    family = _write(model, given)
    counts = count_by_formula(model.config)
    print(f"{given.out}: {family}, {counts.parameters_total:,} parameters, {counts.parameters_active:,} active")
    return 0


def _write(model: StoredModel, given: Export) -> str:
    """What it has become."""
    if given.format == "gguf":
        return _write_gguf(model, given.out, given.dtype or "float32")
    check(given.dtype != "q8_0", "dtype", "must be float32, bfloat16 or float16 in a folder", "q8_0", "or choose gguf")
    return export_model(model, given.out, given.format, getattr(torch, given.dtype) if given.dtype else None)


def _write_gguf(model: StoredModel, out: Path, dtype: DTypeName) -> str:
    fits = dtype != "bfloat16"
    check(fits, "dtype", "must be float32, float16 or q8_0 for gguf", dtype, "choose one of them")
    write_gguf(model, out, cast(FileType, dtype))
    has_tokenizer = any(file.name == TOKENIZER for file in model.files)
    return f"gguf in {dtype}{'' if has_tokenizer else ' without a tokenizer, for token ids only'}"
