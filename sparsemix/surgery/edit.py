"""What an edit of a model is: another config, tensors made of the old ones when read, and what theory says of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparsemix.checks import check
from sparsemix.interop.decoders import decoder_specs
from sparsemix.interop.stored import StoredModel
from sparsemix.kernels import at_least_float32
from sparsemix.layer import MoEConfig
from sparsemix.models import DecoderConfig
from sparsemix.tensors import Derived, Recipe


class Theory(NamedTuple):
    """What is known of an edit before anything is measured."""

    exact: bool
    """Whether the model computes what it did, in evaluation and but for rounding."""
    why: str
    """A sentence."""


class Edited(NamedTuple):
    """A model after an edit."""

    model: StoredModel
    theory: Theory
    decisions: Mapping[str, Any] = {}
    """What was decided from data or at random rather than by the settings; JSON."""


def edited(model: StoredModel, config: DecoderConfig, recipes: Mapping[str, Recipe]) -> StoredModel:
    """The model with another config; tensors without a recipe stay as they are if the config has a place for them."""
    wanted = decoder_specs(config)
    assert recipes.keys() <= wanted.keys(), sorted(recipes.keys() - wanted.keys())
    tensors = Derived(model.tensors, {name: recipes.get(name) or Recipe((name,), unchanged) for name in wanted})
    for name, spec in wanted.items():
        assert tensors.specs[name].shape == spec.shape, (name, tensors.specs[name].shape, spec.shape)
    return model._replace(config=config, tensors=tensors)


def unchanged(found: Sequence[Tensor]) -> Tensor:
    """The one tensor that there is."""
    return found[0]


def mixture(model: StoredModel) -> MoEConfig:
    """The model's mixture of experts.

    Raises:
        ValueError: it has none, or one that routes whole sequences.
    """
    moe = model.config.moe
    check(moe is not None, "model", "must have a mixture of experts", "a dense model", "upcycle it first")
    assert moe is not None
    check(moe.item_dims == 1, "item_dims", "must be 1", moe.item_dims, "edit a model that routes tokens")
    return moe


def check_dense(model: StoredModel) -> None:
    """Raise `ValueError` unless every block has a dense FFN."""
    config, remedy = model.config, "give a dense model"
    seen = "a mixture of experts" if config.moe is not None else "no FFN"
    check(config.moe is None and config.ffn is not None, "model", "must be dense, with an FFN", seen, remedy)


def router_dtype(model: StoredModel) -> torch.dtype:
    """What routers of the model are held in."""
    return at_least_float32(model.tensors.specs["embedding.weight"].dtype)


def ffn(layer: int) -> str:
    """How the names of tensors of a block's FFN or mixture begin."""
    return f"blocks.{layer}.ffn."
