"""Routers that follow their load: what each wants to know of a routing, added up over a batch, and its update."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparsemix.models.decoder import Decoder
from sparsemix.routers import Router
from sparsemix.routing import Routing, flatten

Total = tuple[Tensor | None, ...]
"""The statistics of a layer, one for each loss or router, over however much has been added up."""


def routers(model: Decoder) -> dict[int, list[Router]]:
    """Block number -> its router, and those of mixtures inside, for the blocks with a mixture, in order."""
    return {layer: model.blocks[layer].ffn.routers() for layer in model.config.moe_layers}  # type: ignore[union-attr]


def statistics(routers: Sequence[Router], routing: Routing) -> Total:
    """What each of these routers wants to adapt to, of a layer's routing."""
    return tuple(router.statistic(one) for router, one in zip(routers, flatten(routing), strict=True))


def add_up(parts: Sequence[Total]) -> Total:
    """The totals of several micro-batches."""
    return tuple(
        None if column[0] is None else torch.stack([s for s in column if s is not None]).sum(0)
        for column in zip(*parts, strict=True)
    )


def follow(routers: Sequence[Router], total: Total) -> None:
    """Let each of these routers adapt to what it asked for; once an optimiser step."""
    for router, statistic in zip(routers, total, strict=True):
        if statistic is not None:
            router.update(statistic)
