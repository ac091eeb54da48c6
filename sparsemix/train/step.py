"""Loss and gradients of one optimiser step, over as many micro-batches as it takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from sparsemix.data import Batch
from sparsemix.models import Decoder, DecoderOutput, chunked_cross_entropy
from sparsemix.models.decoder import Collect
from sparsemix.models.following import Total, add_up, routers, statistics
from sparsemix.routing import Routing, load
from sparsemix.train.balancing import Balance
from sparsemix.train.batch import TensorBatch, to_tensors
from sparsemix.train.precision import Precision
from sparsemix.train.random_stream import fork


class Observer(Protocol):
    """Sees every routing of a training run, detached, once for each micro-batch and layer."""

    def __call__(self, step: int, layer: int, routing: Routing) -> None: ...


class LayerReport(NamedTuple):
    """What is kept of a layer's routing; the routing itself, 8 T E bytes of it, only where somebody watches."""

    balance: Tensor
    """The weighted balance losses; carries gradient."""
    load_E: Tensor
    """Valid choices of each expert, int64."""
    statistic: Total
    """What the router wants to adapt to, and the routers of mixtures inside."""
    routing: Routing | None


class Gathered(NamedTuple):
    """One optimiser step's batch, seen as a whole; the gradients are where autograd leaves them."""

    loss: Tensor
    """Weighted mean cross-entropy over all micro-batches, nats; detached."""
    balance: Tensor
    """The balance losses, detached."""
    load: tuple[Tensor, ...]
    """Choices of each expert, one (E,) tensor for each layer with a mixture."""
    statistic: tuple[Total, ...]
    """For `router.update`, likewise."""


class GradientStep(NamedTuple):
    """How a batch becomes gradients."""

    model: Decoder
    balance: Balance
    precision: Precision
    activation_checkpointing: bool = False

    def gather(self, batches: Sequence[Batch], step: int = 0, observers: Sequence[Observer] = ()) -> Gathered:
        """Add the gradients of the whole batch's loss, cross-entropy plus balance, to the parameters' `.grad`.

        The cross-entropy is normalised by the weight of all micro-batches together, so that cutting a batch up
        changes nothing. Balance losses are no sums over tokens: `Balance.scope` says what is done about that.

        Args:
            batches: the micro-batches of one optimiser step.
            step: for the observers.
            observers: shown each routing.
        """
        totals = self._count(batches) if self.balance.scope == "global" and len(batches) > 1 else None
        collect = self._collect(totals, keep_routing=len(observers) > 0)
        parts = []
        for batch, weight, tokens in zip(batches, _shares(batches, "weight_BS"), _shares(batches, "tokens_BS")):
            part = self._backward(to_tensors(batch, self.precision.device), weight, tokens, collect)
            for layer, report in zip(self.model.config.moe_layers, part.layers):
                for observer in observers:
                    assert report.routing is not None
                    observer(step, layer, report.routing)
            parts.append(part)
        return _total(parts)

    def _backward(self, batch: TensorBatch, weight: float, tokens: float, collect: Collect) -> _Part:
        """One micro-batch that has these shares of the loss's weight and of the tokens."""
        output = self._forward(batch, collect, self.activation_checkpointing)
        with self.precision.scope():
            loss = weight * chunked_cross_entropy(
                output.hidden_BSD.flatten(0, 1),
                self.model.unembed_VD,
                batch.targets_BS.flatten(),
                batch.weight_BS.flatten(),
            )
        layers: tuple[LayerReport, ...] = output.collected
        terms = [layer.balance for layer in layers]
        terms += [routing.loss for routing in output.depth if routing.loss is not None]
        balance = tokens * torch.stack(terms).sum() if terms else loss.new_zeros(())
        (loss + balance).backward()
        return _Part(loss.detach(), balance.detach(), layers)

    @torch.no_grad()
    def _count(self, batches: Sequence[Batch]) -> dict[int, list[Total]]:
        """The statistics of the whole batch, layer by layer, drawing the noise that the pass after it will draw."""
        with fork(self.precision.device):
            counted = [
                self._forward(
                    to_tensors(batch, self.precision.device), lambda _, routing: self.balance.count(routing)
                ).collected
                for batch in batches
            ]
        return {
            layer: [add_up(parts) for parts in zip(*by_batch, strict=True)]
            for layer, by_batch in zip(self.model.config.moe_layers, zip(*counted, strict=True))
        }

    def _forward(self, batch: TensorBatch, collect: Collect, activation_checkpointing: bool = False) -> DecoderOutput:
        with self.precision.scope():
            return self.model(
                batch.tokens_BS,
                position_BS=batch.position_BS,
                document_BS=batch.document_BS,
                collect=collect,
                activation_checkpointing=activation_checkpointing,
            )

    def _collect(self, totals: dict[int, list[Total]] | None, keep_routing: bool) -> Collect:
        routers_of = routers(self.model)

        def collect(layer: int, routing: Routing) -> LayerReport:
            return LayerReport(
                balance=self.balance.loss(routing, None if totals is None else totals[layer]),
                load_E=load(routing, routers_of[layer][0].num_experts),
                statistic=statistics(routers_of[layer], routing),
                routing=_detached(routing) if keep_routing else None,
            )

        return collect


class _Part(NamedTuple):
    """One micro-batch."""

    loss: Tensor
    balance: Tensor
    layers: tuple[LayerReport, ...]


def _total(parts: Sequence[_Part]) -> Gathered:
    by_layer = list(zip(*(part.layers for part in parts), strict=True))
    return Gathered(
        loss=torch.stack([part.loss for part in parts]).sum(),
        balance=torch.stack([part.balance for part in parts]).sum(),
        load=tuple(torch.stack([report.load_E for report in reports]).sum(0) for reports in by_layer),
        statistic=tuple(add_up([report.statistic for report in reports]) for reports in by_layer),
    )


def _shares(batches: Sequence[Batch], field: str) -> list[float]:
    """Each micro-batch's share of all weights, or of all tokens; 0 where there are none at all."""
    arrays = [getattr(batch, field) for batch in batches]
    sizes = [float(np.sum(array, dtype=np.float64) if field == "weight_BS" else array.size) for array in arrays]
    return [size / (sum(sizes) or 1.0) for size in sizes]


def _detached(value: Any) -> Any:
    """A routing without its graph, through nested tuples."""
    if isinstance(value, Tensor):
        return value.detach()
    if not isinstance(value, tuple):
        return value
    parts = [_detached(part) for part in value]
    return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
