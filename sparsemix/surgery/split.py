"""Splitting: each expert becomes several narrower ones, which are chosen together."""

from __future__ import annotations

from dataclasses import replace

from pydantic import Field

from sparsemix.config import config
from sparsemix.experts import DenseConfig
from sparsemix.interop.stored import StoredModel
from sparsemix.surgery.edit import Edited, Theory, edited, ffn, mixture
from sparsemix.surgery.gates import repeated
from sparsemix.surgery.reorder import reordered
from sparsemix.surgery.shards import check_divides, cut_down, cut_up, halves, scaled, stacked_kind, stacked_parts
from sparsemix.tensors import Recipe


@config
class SplitConfig:
    """How finely experts are split."""

    num_shards: int = Field(2, ge=2)
    """G: experts that each is split into, and what k is multiplied by."""


def split(model: StoredModel, settings: SplitConfig) -> Edited:
    """E experts of width F become E G of width F / G, and k becomes k G; with most routers that changes nothing.

    A column's G copies tie, so that they are chosen together. Where weights are shares of 1 (softmax, or normalised)
    each copy gets a G-th of the weight, and down projections are multiplied by G; otherwise each has the whole weight,
    and biases of the output are divided by G.

    Raises:
        ValueError: the model has no mixtures, or G does not divide F.
        TypeError: the router or the experts are of a kind that cannot be split.
    """
    moe, shards = mixture(model), settings.num_shards
    kind = stacked_kind(moe.experts, "split")
    check_divides(shards, kind.hidden)
    to = repeated(moe.router, moe.num_experts, shards, "split")
    narrow = replace(kind, hidden=kind.hidden // shards)
    new = replace(moe, num_experts=moe.num_experts * shards, router=to.router, experts=narrow)
    order = [expert for expert in range(moe.num_experts) for _ in range(shards)]
    recipes: dict[str, Recipe] = {}
    for layer in model.config.moe_layers:
        recipes |= reordered(model, layer, "router", order, to.bias_share) | _experts(layer, kind, shards, to.share)
    why = to.doubt or "the shards of an expert are chosen together, with weights that add up to what it gave"
    return Edited(edited(model, replace(model.config, moe=new), recipes), Theory(to.doubt is None, why))


def _experts(layer: int, kind: DenseConfig, shards: int, share: float) -> dict[str, Recipe]:
    """Expert e G + g is shard g of expert e; each has `share` of its weight."""
    names, sides = stacked_parts(kind), halves(kind)
    prefix = ffn(layer)
    found = {
        names.up: lambda found: cut_up(found[0], sides, shards).flatten(0, 1),
        names.down: lambda found: scaled(cut_down(found[0], shards), 1 / share).flatten(0, 1),
    }
    if kind.bias:
        found[names.up_bias] = found[names.up]
        found[names.down_bias] = lambda found: scaled(found[0], 1 / (share * shards)).repeat_interleave(shards, dim=0)
    return {prefix + name: Recipe((prefix + name,), make) for name, make in found.items()}
