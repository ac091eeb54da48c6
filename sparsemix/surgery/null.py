"""Null experts, which cost nothing, added to mixtures: tokens may then have fewer true ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from sparsemix.checks import check
from sparsemix.config import config
from sparsemix.experts import ConcatExpertsConfig, Part, ZeroExpertsConfig
from sparsemix.interop.stored import StoredModel
from sparsemix.layer import MoEConfig
from sparsemix.routers import NullRouterConfig, TopKRouterConfig
from sparsemix.surgery.draws import stream
from sparsemix.surgery.edit import Edited, Theory, edited, ffn, mixture, router_dtype, unchanged
from sparsemix.surgery.shards import stacked_kind, stacked_names
from sparsemix.tensors import Recipe


@config
class AddNullConfig:
    """How many null experts there will be, and how they begin."""

    num_null: int = Field(1, ge=1)
    """Null experts of each mixture."""
    k: int | None = Field(None, ge=2)
    """Choices a token afterwards; None: as before with `never`, and otherwise so many and the null experts."""
    begin: Literal["random", "never", "always"] = "random"
    """Columns of the router are small and random; or logits of null experts are constants, so low that no token can
    choose them or so high that every token chooses all of them: far from the others, they hardly get a gradient."""
    router_std: float = Field(0.02, ge=0)
    """Standard deviation of random columns."""
    seed: int = 0
    """Of these."""


def add_null(model: StoredModel, settings: AddNullConfig) -> Edited:
    """Mixtures with AdaMoE's router: of a token's k choices the null ones give 0, the true ones share the weight.

    The constants are biases of logits, and beyond what others can reach: behind a norm with the weights g, |x| is at
    most sqrt(D) max |g|, and so |w x + b| at most |w| sqrt(D) max |g| + |b|.

    Raises:
        ValueError: the model has no mixtures, or its weights are no softmax over the chosen experts.
        TypeError: the router or the experts are of a kind that cannot have null experts.

    Source: AdaMoE (2406.13233). Differs: the router there has no bias.
    """
    moe = mixture(model)
    kind, before = stacked_kind(moe.experts, "add-null"), _softmax_over_chosen(moe)
    usual = before.k + (0 if settings.begin == "never" else settings.num_null)
    after = NullRouterConfig(k=settings.k or usual, num_null=settings.num_null, bias=True)
    true = Part(num_experts=moe.num_experts, experts=kind)
    null = Part(num_experts=settings.num_null, experts=ZeroExpertsConfig())
    total, parts = moe.num_experts + settings.num_null, ConcatExpertsConfig(parts=(true, null))
    new = replace(model.config, moe=replace(moe, num_experts=total, router=after, experts=parts))
    recipes: dict[str, Recipe] = {}
    for layer in new.moe_layers:
        recipes |= _router(model, layer, before.bias, settings)
        for name in stacked_names(kind):
            inner = name.removeprefix("experts.")
            recipes[f"{ffn(layer)}experts.parts.0.{inner}"] = Recipe((ffn(layer) + name,), unchanged)
    return Edited(edited(model, new, recipes), _theory(settings, usual, after.k))


def _softmax_over_chosen(moe: MoEConfig) -> TopKRouterConfig:
    router = moe.router
    if not isinstance(router, TopKRouterConfig):
        raise TypeError(f"router: must be topk for add-null, got {router.type}; edit another model")
    softmax = router.gate == "topk_softmax" or (router.gate == "softmax_topk" and router.normalize)
    plain = softmax and router.selection_bias is None and router.capacity is None
    rule = "must give the softmax over the chosen, with neither selection bias nor capacity"
    check(plain, "router", rule, router, "edit another model")
    return router


def _theory(settings: AddNullConfig, usual: int, k: int) -> Theory:
    if settings.begin == "random":
        return Theory(False, "tokens choose any number of null experts, and other numbers of true ones than before")
    if k != usual:
        return Theory(False, f"with k={k} rather than {usual} tokens have other numbers of true experts")
    how = "no token can choose" if settings.begin == "never" else "every token chooses all"
    return Theory(True, f"{how} null experts, beside which true ones have the weights that they had")


def _router(model: StoredModel, layer: int, biased: bool, settings: AddNullConfig) -> dict[str, Recipe]:
    prefix, num_null, dtype = ffn(layer) + "router.", settings.num_null, router_dtype(model)
    weight, bias, norm = prefix + "weight_ED", prefix + "bias_E", f"blocks.{layer}.ffn_norm.weight"
    std = settings.router_std if settings.begin == "random" else 0.0

    def weights(found: Sequence[Tensor]) -> Tensor:
        new = torch.randn(num_null, found[0].shape[1], generator=stream(settings.seed, weight)) * std
        return torch.cat([found[0], new.to(found[0])])

    def biases(found: Sequence[Tensor]) -> Tensor:
        old = found[2] if biased else found[0].new_zeros(len(found[0]))
        return torch.cat([old, _constant(found, settings.begin).to(dtype).expand(num_null)])

    inputs = (weight, norm, bias) if biased else (weight, norm)
    return {weight: Recipe((weight,), weights), bias: Recipe(inputs, biases)}


def _constant(found: Sequence[Tensor], begin: Literal["random", "never", "always"]) -> Tensor:
    """A logit that loses or wins against all of the router's, whatever the token; or 0."""
    weight_ED, norm_D, *bias = (tensor.double() for tensor in found)
    bound = weight_ED.norm(dim=1).max() * math.sqrt(len(norm_D)) * norm_D.abs().max() + 1
    bound = bound + sum(bias_E.abs().max() for bias_E in bias)
    return bound * {"random": 0, "never": -1, "always": 1}[begin]
