"""`sparsemix import`: a model from elsewhere into a folder of our own format."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from sparsemix.cli.flags import parse, shown_as
from sparsemix.interop import cast, model_dtype, open_model, write_own


@dataclass(frozen=True)
class Import:
    """Copy a model into a folder of our own format, with its tokenizer; about a layer of it is in memory at a time."""

    path: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PATH")]
    """A Hugging Face folder of a family we know, or a run."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """The new folder."""
    dtype: Annotated[Literal["float32", "bfloat16", "float16"] | None, shown_as("DTYPE")] = None
    """float32, bfloat16 or float16; without, as it is. Routers stay in float32."""


def run(args: list[str]) -> int:
    """Parse, write, say what came."""
    given = parse(Import, args, verb="import", default=Import(path=tyro.MISSING, out=tyro.MISSING))
    model = open_model(given.path)
    if given.dtype is not None:
        model = cast(model, getattr(torch, given.dtype))
    write_own(model, given.out)
    numbers = sum(math.prod(spec.shape) for spec in model.tensors.specs.values())
    dtype = str(model_dtype(model)).removeprefix("torch.")
    print(f"{given.out}: {model.family}, {len(model.tensors.specs):,} tensors of {numbers:,} numbers, {dtype}")
    return 0
