"""Writing GGUF files: one tensor at a time, whole or not at all."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from sparsemix.checks import check, require
from sparsemix.files import new_file, new_parents
from sparsemix.interop.agree import check_tensors
from sparsemix.interop.decoders import decoder_specs
from sparsemix.interop.gguf.architecture import nearest
from sparsemix.interop.gguf.expressible import check_expressible
from sparsemix.interop.gguf.metadata import Value, metadata
from sparsemix.interop.gguf.tensors import recipes
from sparsemix.interop.gguf.tokenizer import vocabulary
from sparsemix.interop.stored import StoredModel
from sparsemix.tensors import Derived, Spec

FileType = Literal["float32", "float16", "q8_0"]
BLOCK = 32
"""Numbers that share a scale in Q8_0; rows of another length stay float16."""
LARGEST = {"F32": 3.4028235e38, "F16": 65_504.0, "Q8_0": 127 * 65_504.0}
"""What each can hold, infinity and NaN not among it."""


def write_gguf(model: StoredModel, out: Path, dtype: FileType = "float32") -> None:
    """Write the model as one file that llama.cpp runs.

    Args:
        model: its files may hold a byte-level tokenizer.json; without one, llama.cpp takes token ids only.
        out: a file that does not exist yet.
        dtype: of matrices; q8_0 is 8 bits a number and a scale for every 32. Norms, biases and routers stay float32.

    Raises:
        ValueError: there is such a file, llama.cpp has no architecture or no pre-tokenizer that equals the model's, or
            its tensors are not those of its config.
        ImportError: the gguf package is missing.
    """
    gguf = require("gguf", "to write GGUF files")
    check(not out.exists(), "out", "must be a new file", f"{out}, which exists", "remove it, or choose another")
    architecture = nearest(model.config)
    check_expressible(model.config, architecture)
    check_tensors(model.tensors.specs, decoder_specs(model.config), "model")
    values = _general(out, dtype) | metadata(model.config, architecture)
    values |= vocabulary(model.files, model.config.vocab_size)
    tensors = Derived(model.tensors, recipes(model.config, architecture, model.tensors))
    with new_parents(out), new_file(out) as partial:
        writer = gguf.GGUFWriter(partial, architecture.name)
        try:
            _add_values(gguf, writer, values)
            _add_tensors(gguf, writer, tensors, dtype)
        finally:
            writer.close()


def _general(out: Path, dtype: FileType) -> dict[str, Value]:
    found: dict[str, Value] = {
        "general.name": out.stem,
        "general.file_type": {"float32": 0, "float16": 1, "q8_0": 7}[dtype],
    }
    return found | ({"general.quantization_version": 2} if dtype == "q8_0" else {})


def _add_values(gguf: Any, writer: Any, values: dict[str, Value]) -> None:
    """Integers are unsigned, but for token types."""
    for key, value in values.items():
        kind = gguf.GGUFValueType
        of = {str: kind.STRING, bool: kind.BOOL, int: kind.UINT32, float: kind.FLOAT32, list: kind.ARRAY}[type(value)]
        writer.add_key_value(key, value, of)


def _add_tensors(gguf: Any, writer: Any, tensors: Derived, dtype: FileType) -> None:
    kinds = {name: getattr(gguf.GGMLQuantizationType, _kind(name, spec, dtype)) for name, spec in tensors.specs.items()}
    for name, spec in tensors.specs.items():
        block, nbytes = gguf.GGML_QUANT_SIZES[kinds[name]]
        size = math.prod(spec.shape) // block * nbytes
        writer.add_tensor_info(name, spec.shape, np.dtype(np.float32), size, raw_dtype=kinds[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name in tensors.specs:
        numbers = tensors.read(name).to(torch.float32)
        low, high = numbers.aminmax()
        largest = max(-low.item(), high.item())
        check(largest <= LARGEST[kinds[name].name], name, f"must fit {kinds[name].name}", largest, "use float32")
        writer.write_tensor_data(gguf.quants.quantize(numbers.contiguous().numpy(), kinds[name]))


def _kind(name: str, spec: Spec, dtype: FileType) -> str:
    """What llama.cpp takes: vectors, biases of experts and routers in float32 only."""
    if dtype == "float32" or len(spec.shape) == 1 or name.endswith(".bias") or "ffn_gate_inp" in name:
        return "F32"
    return "F16" if dtype == "float16" or spec.shape[-1] % BLOCK else "Q8_0"
