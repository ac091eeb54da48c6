"""What the loop wants of each layer's routing: its balance losses, and how micro-batches see the whole batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from sparsemix.balance import Loss, LossConfig
from sparsemix.config import config
from sparsemix.models import Decoder, DecoderConfig
from sparsemix.models.following import Total, routers
from sparsemix.routing import Routing, TokenInfo, flatten
from sparsemix.train.random_stream import fork


@config
class BalanceConfig:
    """The balance losses, summed over layers, and over which batch they are taken."""

    losses: tuple[LossConfig, ...] | None = None
    """None: those of the router's paper."""
    scope: Literal["micro", "global"] = "micro"
    """Balance each micro-batch, or exactly the whole batch, by a forward pass more that counts. What a router itself
    asks for, as ReMoE's penalty, is of each micro-batch."""

    def build(self, model: DecoderConfig) -> Balance:
        """The losses of this model's routers."""
        if self.losses is not None or model.moe is None:
            return Balance(self.losses or (), self.scope)
        return Balance(model.moe.router.losses(model.moe.num_experts), self.scope)


@dataclass(frozen=True)
class Balance:
    """Balance losses of one layer at a time."""

    losses: tuple[Loss, ...] = ()
    scope: Literal["micro", "global"] = "micro"

    def loss(self, routing: Routing, totals: Sequence[Total] | None = None) -> Tensor:
        """The weighted sum for one layer, a scalar, and what its router asks for by itself.

        Args:
            routing: of a layer for one micro-batch.
            totals: of the whole batch, in the order of `flatten(routing)`; None: the micro-batch is the whole.
        """
        terms = [routing.weight_N.new_zeros(())]
        routings = flatten(routing)
        for one, total in zip(routings, totals or [None] * len(routings), strict=True):
            statistics = [None] * len(self.losses) if total is None else total
            terms += [loss.weight * loss(one, s) for loss, s in zip(self.losses, statistics) if loss.weight]
            if one.loss is not None:
                terms.append(one.loss)
        return torch.stack(terms).sum()

    def count(self, routing: Routing) -> tuple[Total, ...]:
        """What the losses need to know of the whole batch, of one micro-batch; for `add_up`."""
        return tuple(
            tuple(loss.statistic(one) if loss.weight else None for loss in self.losses) for one in flatten(routing)
        )


def unbalanced(model: Decoder, balance: Balance) -> list[int]:
    """The blocks whose router is neither reached by a balance loss nor balances by itself nor follows the load.

    Found by asking: each router routes a few random tokens, and the gradient of its balance loss is looked at.

    Raises:
        ValueError: a loss needs what a router does not give.
    """
    with fork(model.embedding.weight.device):
        return [layer for layer, (router, *_) in routers(model).items() if not _is_balanced(router, model, balance)]


def _is_balanced(router: Any, model: Decoder, balance: Balance) -> bool:
    assert model.config.moe is not None
    number_T = torch.arange(4 * router.num_experts)
    x_TD = torch.randn(len(number_T), model.config.dim).to(model.embedding.weight)
    info = TokenInfo(
        id_T=model.config.vocab_size - 1 - number_T % model.config.vocab_size,  # the largest ids: tables must have them
        sequence_T=torch.zeros_like(number_T),
        position_T=number_T,
    )
    routing = router(x_TD, TokenInfo(*(field if field is None else field.to(x_TD.device) for field in info)))
    loss, parameters = balance.loss(routing), list(router.parameters())
    if model.config.moe.router.balances_itself or router.statistic(routing) is not None:
        return True
    if not loss.requires_grad or not parameters:
        return False
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    return any(gradient is not None and bool(gradient.any()) for gradient in gradients)
