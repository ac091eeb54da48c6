"""Columns of the router that share an expert each get a copy of it, as other libraries need it."""

from __future__ import annotations

from dataclasses import replace

from sparsemix.checks import check
from sparsemix.config import config
from sparsemix.experts import TiedExpertsConfig
from sparsemix.interop.stored import StoredModel
from sparsemix.surgery.edit import Edited, Theory, edited, ffn, mixture
from sparsemix.surgery.shards import stacked_names
from sparsemix.tensors import Recipe


@config
class UntieConfig:
    """There is nothing to choose."""


def untie(model: StoredModel) -> Edited:
    """The same function as an ordinary mixture, with as many modules as columns.

    Raises:
        ValueError: nothing is shared.
    """
    moe = mixture(model)
    tied, remedy = isinstance(moe.experts, TiedExpertsConfig), "leave it as it is"
    check(tied, "experts", "must be tied to be untied", moe.experts.type, remedy)
    assert isinstance(moe.experts, TiedExpertsConfig)
    kind, recipes = moe.experts.experts, {}
    for layer in model.config.moe_layers:
        for name in stacked_names(kind):
            inputs = (f"{ffn(layer)}experts.{name}", f"{ffn(layer)}experts.owner_E")
            recipes[ffn(layer) + name] = Recipe(inputs, lambda found: found[0][found[1]])
    after = edited(model, replace(model.config, moe=replace(moe, experts=kind)), recipes)
    return Edited(after, Theory(True, "experts were copied, nothing else"))
