"""What the loop wants of each layer's routing: its balance loss, its load, the statistic that adapts its router."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from sparsemix import balance
from sparsemix.config import config
from sparsemix.models import Decoder
from sparsemix.routers import Router
from sparsemix.routing import Routing, flatten, load


@config
class BalanceConfig:
    """Coefficients of the balance losses, summed over layers, and over which batch they are taken."""

    switch: float = Field(default=0.01, ge=0)
    """Share of choices times mean probability (Switch, OLMoE: 0.01)."""
    z: float = Field(default=0.001, ge=0)
    """Mean squared logsumexp of the router's logits (ST-MoE: 0.001)."""
    importance: float = Field(default=0.0, ge=0)
    """Squared variation of the summed combine weights (2017: 0.1)."""
    load: float = Field(default=0.0, ge=0)
    """Squared variation of the expected load of noisy routers (2017: 0.1)."""
    scope: Literal["micro", "global"] = "micro"
    """Balance each micro-batch, or exactly the whole batch, by a forward pass more that counts."""

    @property
    def active(self) -> bool:
        """Whether any loss has a coefficient."""
        return bool(self.switch or self.z or self.importance or self.load)

    @property
    def counts_globally(self) -> bool:
        """Whether a loss that is no mean over tokens is to see the whole batch."""
        return self.scope == "global" and bool(self.switch or self.importance or self.load)

    def loss(self, routing: Routing, wholes: Sequence[Whole] | None = None) -> Tensor:
        """The weighted sum of the losses of one layer, a scalar.

        Args:
            routing: of a layer for one micro-batch.
            wholes: of the whole batch, in the order of `flatten(routing)`; None: the micro-batch is the whole.
        """
        routings = flatten(routing)
        wholes = [_UNKNOWN] * len(routings) if wholes is None else wholes
        terms = [routing.weight_N.new_zeros(())]
        for one, whole in zip(routings, wholes, strict=True):
            if self.switch:
                terms.append(self.switch * balance.switch_loss(one, whole.load_E))
            if self.z:
                terms.append(self.z * balance.z_loss(one))
            if self.importance:
                terms.append(self.importance * balance.importance_loss(one, whole.importance_E))
            if self.load:
                terms.append(self.load * balance.load_loss(one, whole.expected_load_E))
        return torch.stack(terms).sum()

    def count(self, routing: Routing) -> tuple[Whole, ...]:
        """What the losses need to know of the whole batch, of one micro-batch; for `merge`."""
        return tuple(self._count(one) for one in flatten(routing))

    def _count(self, routing: Routing) -> Whole:
        if routing.probs_TE is None:
            return _UNKNOWN  # the losses complain
        num_experts = routing.probs_TE.shape[1]
        return Whole(
            load_E=load(routing, num_experts) if self.switch else None,
            importance_E=balance.importance(routing, num_experts) if self.importance else None,
            expected_load_E=balance.expected_load(routing) if self.load else None,
        )


class Whole(NamedTuple):
    """Statistics of one layer over the whole batch; None where no loss asks for them."""

    load_E: Tensor | None
    """Choices of each expert: a sum."""
    importance_E: Tensor | None
    """Combine weight a token: a mean."""
    expected_load_E: Tensor | None
    """Chance to be selected: a mean."""


_UNKNOWN = Whole(None, None, None)


def merge(parts: Sequence[Whole], shares: Sequence[float]) -> Whole:
    """The whole of micro-batches that have these shares of its tokens."""

    def mean(values: Sequence[Tensor | None]) -> Tensor | None:
        present = [share * value for share, value in zip(shares, values, strict=True) if value is not None]
        return torch.stack(present).sum(0) if present else None

    loads = [part.load_E for part in parts if part.load_E is not None]
    return Whole(
        load_E=torch.stack(loads).sum(0) if loads else None,
        importance_E=mean([part.importance_E for part in parts]),
        expected_load_E=mean([part.expected_load_E for part in parts]),
    )


def routers(model: Decoder) -> dict[int, Router]:
    """Block number -> its router, for the blocks with a mixture, in order."""
    return {layer: model.blocks[layer].ffn.router for layer in model.config.moe_layers}  # type: ignore[union-attr]


def unbalanced(model: Decoder, config: BalanceConfig) -> list[int]:
    """The blocks whose router is neither reached by a balance loss nor follows the load by a state of its own.

    Found by asking: each router routes a few random tokens, and the gradient of its balance loss is looked at.
    """
    with torch.random.fork_rng(devices=[]):
        return [layer for layer, router in routers(model).items() if not _is_balanced(router, model, config)]


def _is_balanced(router: Any, model: Decoder, config: BalanceConfig) -> bool:
    x_TD = torch.randn(4 * router.num_experts, model.config.dim).to(model.embedding.weight)
    routing = router(x_TD)
    if router.statistic(routing) is not None:
        return True
    loss, parameters = config.loss(routing), list(router.parameters())
    if not config.active or not loss.requires_grad or not parameters:
        return False
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    return any(gradient is not None and bool(gradient.any()) for gradient in gradients)
