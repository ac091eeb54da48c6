"""How evenly a trained model loads its experts on text that it never saw."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparsemix.data import Batch
from sparsemix.models import Decoder, evaluating
from sparsemix.models.following import routers
from sparsemix.routing import Routing, load, valid_edges
from sparsemix.train.batch import to_tensors
from sparsemix.train.precision import Precision


class LayerLoad(NamedTuple):
    """What one layer's experts are given."""

    layer: int
    load_E: Tensor
    """Choices of each expert, before any is dropped."""
    tokens: int
    dropped: float
    """Share of choices that nobody computes: refused by a capacity, or of an expert that is null."""
    cheap: int = 0
    """So many experts, the last, cost next to nothing, and need not be loaded evenly."""

    @property
    def costly(self) -> Tensor:
        """`load_E` of the others."""
        return self.load_E[: len(self.load_E) - self.cheap]

    @property
    def fullest(self) -> float:
        """Load of the fullest of these over their mean load: 1 at best."""
        return float(self.costly.max() * len(self.costly) / self.costly.sum().clamp(min=1))

    @property
    def idle(self) -> float:
        """Share of these that nobody chose."""
        return float((self.costly == 0).double().mean())

    @property
    def edges_per_token(self) -> float:
        """Choices a token."""
        return float(self.load_E.sum()) / self.tokens

    def summary(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "layer": self.layer,
            "fullest_over_mean": self.fullest,
            "idle": self.idle,
            "edges_per_token": self.edges_per_token,
            "dropped": self.dropped,
            "load": self.load_E.tolist(),
        }


@torch.no_grad()
def held_out_loads(model: Decoder, batches: Iterable[tuple[str, Batch]], precision: Precision) -> list[LayerLoad]:
    """The loads of each layer with a mixture, in evaluation mode."""
    routers_of = routers(model)

    def collect(layer: int, routing: Routing) -> tuple[Tensor, Tensor]:
        return load(routing, routers_of[layer][0].num_experts), _served(routing)

    sums, tokens = [], 0
    with evaluating(model):
        for _, batch in batches:
            on_device = to_tensors(batch, precision.device)
            with precision.scope():
                sums.append(model(on_device.tokens_BS, collect=collect).collected)
            tokens += batch.tokens_BS.size
    assert model.config.moe is not None
    cheap = len(getattr(model.config.moe.router, "last_experts", ()))
    found = []
    for layer, parts in zip(routers_of, zip(*sums, strict=True), strict=True):
        load_E, served = (torch.stack(column).sum(0).cpu() for column in zip(*parts, strict=True))
        dropped = 1 - float(served) / max(float(load_E.sum()), 1.0)
        found.append(LayerLoad(layer, load_E, tokens, dropped, cheap))
    return found


def _served(routing: Routing) -> Tensor:
    """How many valid choices are live."""
    live_N = torch.ones_like(routing.expert_N, dtype=torch.bool) if routing.live_N is None else routing.live_N
    valid_N = valid_edges(routing)
    return live_N.sum() if valid_N is None else (live_N & valid_N).sum()
