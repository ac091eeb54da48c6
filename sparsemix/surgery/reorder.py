"""Routers' tensors by their columns: which are kept, repeated or added where experts are."""

from __future__ import annotations

from collections.abc import Sequence

from sparsemix.interop.stored import StoredModel
from sparsemix.surgery.edit import ffn
from sparsemix.surgery.shards import scaled
from sparsemix.tensors import Recipe

SELECTION_BIAS = "selection_bias.bias_E"


def take(recipe: Recipe, order: Sequence[int]) -> Recipe:
    """The recipe of these rows of what another makes, some perhaps several times."""
    return Recipe(recipe.inputs, lambda found: recipe.make(found)[list(order)])


def has_columns(name: str) -> bool:
    """Whether a router's tensor has an entry or a row for each expert, as its name says."""
    return name.rpartition("_")[2].startswith("E")


def reordered(model: StoredModel, layer: int, order: Sequence[int], bias_share: float = 1.0) -> dict[str, Recipe]:
    """Recipes of a router whose columns are these of its old ones, selection biases multiplied by `bias_share`."""
    prefix = ffn(layer) + "router."
    found = {}
    for name in model.tensors.specs:
        if name.startswith(prefix) and has_columns(name):
            share = bias_share if name.endswith(SELECTION_BIAS) else 1.0
            found[name] = Recipe((name,), lambda one, share=share: scaled(one[0][list(order)], share))
    return found
