"""Whole mixtures dropped from blocks, of which attention remains."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from pydantic import Field

from sparsemix.checks import check
from sparsemix.config import config
from sparsemix.interop.stored import StoredModel
from sparsemix.surgery.edit import Edited, Theory, edited, mixture
from sparsemix.surgery.text import Text
from sparsemix.surgery.walk import Step, walk_mixtures


@config
class DropLayerExpertsConfig:
    """Which mixtures are dropped."""

    layers: tuple[int, ...] = ()
    """Blocks that lose theirs, counted from 0."""
    count: int = Field(0, ge=0)
    """Instead of naming them: how many, chosen as those that change the residual stream the least on the text."""


def drop_layer_experts(model: StoredModel, settings: DropLayerExpertsConfig, text: Text) -> Edited:
    """The blocks, named or chosen, are attention alone.

    Chosen are those whose residual stream before and after the mixture has the largest mean cosine.

    Raises:
        ValueError: the model has no mixtures, or not those to be dropped; or not one of layers and count is given.

    Source: layer drop of 2406.02500.
    """
    mixture(model)
    there = model.config.moe_layers
    check(
        bool(settings.layers) != bool(settings.count), "layers", "must be given, or else a count", settings, "give one"
    )
    rule, remedy = f"must be among those with a mixture, {there}", "correct them"
    check({*settings.layers} <= {*there}, "layers", rule, settings.layers, remedy)
    check(
        settings.count <= len(there), "count", f"must be at most the {len(there)} mixtures", settings.count, "lower it"
    )
    dropped, decisions = {*settings.layers}, {}
    if settings.count:
        likeness = similarities(model, text)
        dropped = set(sorted(there, key=lambda layer: -likeness[layer])[: settings.count])
        decisions = {"similarity": {str(layer): value for layer, value in likeness.items()}}
    without = tuple(sorted({*model.config.without_ffn, *dropped}))
    moe = model.config.moe if dropped < {*there} else None
    new = replace(model.config, moe=moe, without_ffn=without)
    why = "what the mixtures gave is missing"
    return Edited(edited(model, new, {}), Theory(False, why), {"dropped": sorted(dropped), **decisions})


def similarities(model: StoredModel, text: Text) -> dict[int, float]:
    """Of each block with a mixture, the mean over tokens of cos(x, x + y) with y what the mixture adds."""
    scale = model.config.residual_scale
    return {step.layer: _similarity(step, scale) for step in walk_mixtures(model, text.batches)}


def _similarity(step: Step, scale: float) -> float:
    total, count = 0.0, 0
    for after_BSD, mixed in zip(step.after, step.mixed):
        after_TD = after_BSD.flatten(0, 1)
        cosine_T = F.cosine_similarity(after_TD - scale * mixed.y_TD, after_TD, dim=-1)
        total += float(cosine_T.sum(dtype=torch.float64))
        count += len(cosine_T)
    return total / count
