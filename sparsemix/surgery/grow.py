"""Growing: more experts, which begin as copies of those there are."""

from __future__ import annotations

from collections.abc import Sequence
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
from sparsemix.routers import GroupLimitedRouterConfig, RouterConfig, SelectionBiasConfig, TopKRouterConfig
from sparsemix.surgery.columns import num_groups
from sparsemix.surgery.draws import stream
from sparsemix.surgery.edit import Edited, Theory, edited, ffn, mixture, router_dtype
from sparsemix.surgery.gates import adds_to_probabilities, dropless, repeated
from sparsemix.surgery.reorder import SELECTION_BIAS, reordered
from sparsemix.surgery.shards import stacked_kind, stacked_names
from sparsemix.tensors import Recipe

AGAINST_SCORES = 2.0
"""A selection bias this far below all others loses whatever the scores in 0..1."""


@config
class GrowConfig:
    """How many experts there will be, and how the new ones begin."""

    num_experts: int | None = Field(None, ge=2)
    """E afterwards; None: twice as many."""
    k: int | None = Field(None, ge=1)
    """Experts a token afterwards; None: as before."""
    begin: Literal["chosen", "dormant"] = "chosen"
    """New experts compete with those that they are copies of; or a selection bias keeps them out until training, in
    which it follows the load, has raised it."""
    noise: float = Field(0.0, ge=0)
    """Standard deviation of noise on new experts' weights, relative to that of these weights."""
    router_noise: float = Field(0.01, ge=0)
    """The same of new columns of the router, which without noise tie with those that they are copies of."""
    seed: int = 0
    """Of the noise."""


def grow(model: StoredModel, settings: GrowConfig) -> Edited:
    """New experts are copies of the old ones in turn, and so are their columns of the router; each group grows.

    Without noise, c copies of every expert and c times the k compute what the model did, wherever weights are shares of
    1. Dormant experts change nothing while the bias keeps them out, if weights depend on chosen experts alone.

    Raises:
        ValueError: the model has no mixtures, there are not more experts than before, or not as many in each group.
        TypeError: the router or the experts are of a kind that cannot grow.
    """
    moe = mixture(model)
    kind, router = stacked_kind(moe.experts, "grow"), moe.router
    total = settings.num_experts or 2 * moe.num_experts
    check(
        total > moe.num_experts, "num_experts", f"must be more than the {moe.num_experts} there are", total, "raise it"
    )
    if not isinstance(router, TopKRouterConfig | GroupLimitedRouterConfig):
        raise TypeError(f"router: must be topk or group_limited for grow, got {router.type}; edit another model")
    order, new = _order(moe, total)
    if settings.begin == "dormant":
        theory, after = _dormant(moe, router, settings)
    else:
        theory, after = _chosen(moe, router, total, settings)
    recipes: dict[str, Recipe] = {}
    for layer in model.config.moe_layers:
        recipes |= _experts(layer, kind, order, new, settings)
        recipes |= _router(model, layer, order, new, settings)
    config = replace(model.config, moe=replace(moe, num_experts=total, router=after))
    return Edited(edited(model, config, recipes), theory)


def _order(moe: MoEConfig, num_experts: int) -> tuple[list[int], list[int]]:
    """Which expert each of the later ones is a copy of, and which of these are new."""
    groups = num_groups(moe.router)
    rule = f"must be a multiple of the {groups} groups"
    check(num_experts % groups == 0, "num_experts", rule, num_experts, "change it")
    was, now = moe.num_experts // groups, num_experts // groups
    order = [group * was + place % was for group in range(groups) for place in range(now)]
    return order, [expert for expert in range(num_experts) if expert % now >= was]


def _chosen(
    moe: MoEConfig, router: TopKRouterConfig | GroupLimitedRouterConfig, total: int, settings: GrowConfig
) -> tuple[Theory, RouterConfig]:
    copies, rest = divmod(total, moe.num_experts)
    after = replace(router, k=settings.k or router.k)
    to = repeated(router, moe.num_experts, copies, "grow")
    if settings.noise or settings.router_noise:
        return Theory(False, "new experts differ from those they were copied from"), after
    if rest or after.k != copies * router.k:
        return Theory(False, "not every expert has as many copies as k grows by, so that other sets are chosen"), after
    if to.doubt is not None:
        return Theory(False, to.doubt), after
    if to.share == 1:
        return Theory(False, "each copy has the whole weight of the expert"), after
    if to.bias_share != 1:
        return Theory(False, "probabilities shrink, but not the selection bias beside them"), after
    return Theory(True, "all copies of an expert are chosen together and share its weight"), after


def _dormant(
    moe: MoEConfig, router: TopKRouterConfig | GroupLimitedRouterConfig, settings: GrowConfig
) -> tuple[Theory, RouterConfig]:
    bias = router.selection_bias
    rule, remedy = "must be a score in 0..1 for a bias to outweigh", "use begin='chosen'"
    check(router.gate != "topk_softmax", "gate", rule, router.gate, remedy)
    additive = bias is None or bias.form == "additive"
    check(additive, "selection_bias.form", "must be additive", "multiplicative", remedy)
    check(settings.k is None, "k", "must stay as it is while new experts are dormant", settings.k, "leave it out")
    after = replace(router, selection_bias=bias or SelectionBiasConfig())
    if not dropless(router.capacity):
        return Theory(False, "the capacity is another"), after
    if adds_to_probabilities(router) or (router.gate == "softmax_topk" and not router.normalize):
        return Theory(False, "probabilities of the old experts are smaller beside more experts"), after
    if isinstance(router, GroupLimitedRouterConfig) and router.keep_groups < router.num_groups:
        if moe.num_experts == router.num_groups and router.group_score == "two_best":
            return Theory(False, "groups of one now compete by two experts"), after
        if router.outside == "zero" and bias is not None:
            return Theory(False, "experts outside the groups kept, dormant ones too, may win by a score of 0"), after
    return Theory(True, "the selection bias keeps new experts out whatever the token"), after


def _experts(
    layer: int, kind: DenseConfig, order: Sequence[int], new: Sequence[int], settings: GrowConfig
) -> dict[str, Recipe]:
    full = [ffn(layer) + name for name in stacked_names(kind)]
    return {
        name: Recipe((name,), lambda found, name=name: _noised(found[0], order, new, settings.noise, name, settings))
        for name in full
    }


def _router(
    model: StoredModel, layer: int, order: Sequence[int], new: Sequence[int], settings: GrowConfig
) -> dict[str, Recipe]:
    found, prefix = reordered(model, layer, "router", order), ffn(layer) + "router."
    weight, bias = prefix + "weight_ED", prefix + SELECTION_BIAS
    found[weight] = Recipe((weight,), lambda one: _noised(one[0], order, new, settings.router_noise, weight, settings))
    if settings.begin == "dormant":
        dtype = router_dtype(model)
        inputs = (bias,) if bias in model.tensors.specs else ()
        found[bias] = Recipe(inputs, lambda one: _kept_out(one[0] if one else torch.zeros(0), order, new, dtype))
    return found


def _noised(
    stack: Tensor, order: Sequence[int], new: Sequence[int], noise: float, name: str, settings: GrowConfig
) -> Tensor:
    """Experts in this order, with noise on the new ones."""
    grown = stack[list(order)]
    if grown.is_meta or not noise:
        return grown
    draw = stream(settings.seed, name)
    for expert in new:
        std = grown[expert].float().std(correction=0)
        grown[expert] += (torch.randn(grown[expert].shape, generator=draw) * std * noise).to(grown.dtype)
    return grown


def _kept_out(bias_E: Tensor, order: Sequence[int], new: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Selection biases of which those of new experts lose against all others; without old ones, these are 0."""
    grown = bias_E[list(order)] if len(bias_E) else torch.zeros(len(order), dtype=dtype)
    grown[list(new)] = grown.min() - AGAINST_SCORES
    return grown
