"""Decoders and the tensors of stored models: what a decoder holds, and one filled tensor by tensor."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from sparsemix.interop.agree import check_tensors
from sparsemix.interop.stored import StoredModel
from sparsemix.models import Decoder, DecoderConfig
from sparsemix.tensors import Derived, Recipe, Spec, spec_of


def decoder_specs(config: DecoderConfig, dtype: torch.dtype = torch.float32) -> dict[str, Spec]:
    """What a decoder holds that computes in `dtype`; routers and their state are not narrowed."""
    return {name: spec_of(tensor) for name, tensor in _empty(config, dtype).state_dict().items()}


def model_dtype(model: StoredModel) -> torch.dtype:
    """The dtype of its embedding, in which it computes."""
    return model.tensors.specs["embedding.weight"].dtype


def cast(model: StoredModel, dtype: torch.dtype) -> StoredModel:
    """The model in another dtype; what a decoder keeps wider stays so."""
    wanted = decoder_specs(model.config, dtype)
    recipes = {name: Recipe((name,), partial(_cast, dtype=wanted[name].dtype)) for name in model.tensors.specs}
    return model._replace(tensors=Derived(model.tensors, recipes))


def build(model: StoredModel, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Decoder:
    """The decoder, filled tensor by tensor.

    Args:
        model: what to build.
        device: where to.
        dtype: of its parameters, but for those of routers, which are at least float32; None: that of the embedding.

    Raises:
        ValueError: a tensor is missing, extra, or of another shape than the config says.
    """
    decoder = _empty(model.config, model_dtype(model) if dtype is None else dtype).to_empty(device=device)
    fill(decoder, model)
    return decoder


@torch.no_grad()
def fill(decoder: Decoder, model: StoredModel) -> None:
    """Copy the tensors of a stored model into a decoder, one at a time.

    Raises:
        ValueError: a tensor is missing, extra, or of another shape than the decoder's.
    """
    own = decoder.state_dict()
    check_tensors(model.tensors.specs, {name: spec_of(tensor) for name, tensor in own.items()}, "weights")
    for name, tensor in own.items():
        tensor.copy_(model.tensors.read(name))


def _empty(config: DecoderConfig, dtype: torch.dtype) -> Decoder:
    """Shapes without memory."""
    with torch.device("meta"):
        return config.build().to(dtype)


def _cast(tensors: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    return tensors[0].to(dtype)
