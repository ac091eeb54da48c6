"""Tensors by experts: which rows are kept, repeated or put in another order."""

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


def per_expert(name: str) -> bool:
    """Whether the first axis of a tensor is experts, as its name says: `weight_ED`."""
    return name.rpartition("_")[2].startswith("E")


def reordered(
    model: StoredModel, layer: int, part: str, order: Sequence[int], bias_share: float = 1.0
) -> dict[str, Recipe]:
    """Recipes of these rows of all tensors by experts in `router` or `experts` of the mixture of a block.

    Selection biases are multiplied by `bias_share`.
    """
    prefix, found = f"{ffn(layer)}{part}.", {}
    for name in model.tensors.specs:
        if name.startswith(prefix) and per_expert(name):
            share = bias_share if name.endswith(SELECTION_BIAS) else 1.0
            found[name] = Recipe((name,), lambda one, share=share: scaled(one[0][list(order)], share))
    return found
