"""Merging dense models: their FFNs become the experts of one mixture, all else is shared."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from sparsemix.checks import check
from sparsemix.config import config
from sparsemix.experts import DenseConfig
from sparsemix.interop.stored import StoredModel
from sparsemix.layer import MoEConfig
from sparsemix.models import DecoderConfig
from sparsemix.routers import RouterConfig, TopKRouterConfig
from sparsemix.surgery.draws import new_router
from sparsemix.surgery.edit import Edited, Theory, check_dense, edited, ffn, router_dtype
from sparsemix.surgery.shards import dense_parts, stacked_names
from sparsemix.tensors import Recipe, Spec, TensorSource

TOKENIZER = "tokenizer.json"
"""The file that says which tokens there are; others may differ, as chat templates do."""


@config
class MergeDenseConfig:
    """How tokens choose among the models' FFNs, and what becomes of all other weights."""

    router: RouterConfig = TopKRouterConfig()
    """Which experts a token goes to; new, with random weights."""
    rest: Literal["mean", "first"] = "mean"
    """Attention, norms and embeddings are the mean of all models', or those of the first."""
    router_std: float = Field(0.02, ge=0)
    """Standard deviation of the routers' weights."""
    seed: int = 0
    """Of the routers' weights."""


def merge_dense(models: Sequence[StoredModel], settings: MergeDenseConfig) -> Edited:
    """N dense models of one shape become one with mixtures of N experts; expert i is the FFN of model i.

    Raises:
        ValueError: fewer than two models, one that is not dense, or one of another shape or with another tokenizer.
    """
    check(len(models) >= 2, "models", "must be at least two", len(models), "name more")
    for number, model in enumerate(models):
        check_dense(model)
        _check_alike(models[0], model, number)
    first, together = models[0], Beside([model.tensors for model in models])
    kind = first.config.ffn
    assert kind is not None
    moe = MoEConfig(num_experts=len(models), router=settings.router, experts=kind)
    new = replace(first.config, moe=moe, ffn=None, moe_every=1, dense_first=0, dense_layers=())
    recipes: dict[str, Recipe] = {name: _rest(name, len(models), settings.rest) for name in first.tensors.specs}
    recipes = {name: recipe for name, recipe in recipes.items() if ".ffn." not in name}
    for layer in new.moe_layers:
        recipes |= _experts(layer, kind, len(models))
        recipes |= new_router(new, layer, settings.router_std, settings.seed, router_dtype(first))
    theory = Theory(False, "tokens mix FFNs that differ")
    return Edited(edited(first._replace(tensors=together), new, recipes), theory)


class Beside:
    """Tensors of several sources, named by the number of the source: `0/norm.weight`."""

    def __init__(self, sources: Sequence[TensorSource]) -> None:
        self.sources = sources
        self.specs: Mapping[str, Spec] = {
            f"{number}/{name}": spec for number, source in enumerate(sources) for name, spec in source.specs.items()
        }

    def read(self, name: str) -> Tensor:
        number, _, own = name.partition("/")
        return self.sources[int(number)].read(own)


def _check_alike(first: StoredModel, model: StoredModel, number: int) -> None:
    """Raise `ValueError` naming the field, or the tokenizer's file, in which a model is unlike the first."""
    for field in dataclasses.fields(DecoderConfig):
        was, now = getattr(first.config, field.name), getattr(model.config, field.name)
        if field.name != "init":
            remedy = "merge models of one shape"
            check(was == now, f"model {number}: {field.name}", f"must be {was} as in the first", now, remedy)
    for name, tensor in first.tensors.specs.items():
        dtype = model.tensors.specs[name].dtype
        check(dtype == tensor.dtype, f"model {number}: {name}", f"must be {tensor.dtype}", dtype, "convert it")
    was, now = ([path.read_bytes() for path in one.files if path.name == TOKENIZER] for one in (first, model))
    rule, remedy = "must be the first one's", "merge models of one tokenizer"
    check(was == now, f"model {number}: {TOKENIZER}", rule, "another", remedy)


def _rest(name: str, num_models: int, how: Literal["mean", "first"]) -> Recipe:
    if how == "first":
        return Recipe((f"0/{name}",), lambda found: found[0])
    return Recipe(tuple(f"{number}/{name}" for number in range(num_models)), _mean)


def _mean(found: Sequence[Tensor]) -> Tensor:
    total = found[0].double()
    for tensor in found[1:]:
        total = total + tensor
    return (total / len(found)).to(found[0].dtype)


def _experts(layer: int, kind: DenseConfig, num_models: int) -> dict[str, Recipe]:
    return {
        ffn(layer) + stacked: Recipe(tuple(f"{number}/{ffn(layer)}{dense}" for number in range(num_models)), _stacked)
        for dense, stacked in zip(dense_parts(kind), stacked_names(kind))
    }


def _stacked(found: Sequence[Tensor]) -> Tensor:
    return torch.stack([*found])
