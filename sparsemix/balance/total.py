"""The balance losses as values that say what they are, and their sum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Protocol

import torch
from pydantic import Field
from torch import Tensor

from sparsemix.balance.costs import CostLoss, NullLoss
from sparsemix.balance.devices import CommunicationLoss, DeviceLoss
from sparsemix.balance.entropy import GlobalEntropyLoss, LocalEntropyLoss
from sparsemix.balance.logits import ZLoss
from sparsemix.balance.sequence import SequenceLoss
from sparsemix.balance.switch import SwitchLoss
from sparsemix.balance.variation import ImportanceLoss, LoadLoss
from sparsemix.checks import check
from sparsemix.routing import Routing, flatten


class Loss(Protocol):
    """A balance loss with its coefficient."""

    @property
    def weight(self) -> float:
        """What the loss is multiplied with before it is added."""
        ...

    def statistic(self, routing: Routing) -> Tensor | None:
        """What it needs to know of a whole batch, of this part: additive over micro-batches and ranks.

        None: nothing, since it is a mean over tokens or sequences.
        """
        ...

    def __call__(self, routing: Routing, total: Tensor | None = None) -> Tensor:
        """The loss of one layer, without the coefficient.

        With the summed statistic, the mean of the parts' losses, weighted by their tokens, is the loss of the whole.
        """
        ...


LossConfig = Annotated[
    SwitchLoss
    | ZLoss
    | ImportanceLoss
    | LoadLoss
    | SequenceLoss
    | DeviceLoss
    | CommunicationLoss
    | LocalEntropyLoss
    | GlobalEntropyLoss
    | CostLoss
    | NullLoss,
    Field(discriminator="type"),
]
USUAL: tuple[Loss, ...] = (SwitchLoss(), ZLoss())
"""What token-choice models are trained with since Switch and ST-MoE."""


def balance_loss(routings: Routing | Sequence[Routing], losses: Sequence[Loss] = USUAL) -> Tensor:
    """The weighted balance losses summed over layers: add it to the loss of the task, in one line.

    The sum, not the mean: each layer's router then feels the same force however deep the model is. What a router asks
    for by itself, `routing.loss`, is part of it.

    Args:
        routings: of one layer or of all, those of mixtures used as experts found inside.
        losses: which, and with what coefficients; a router's config names those of its paper.

    Returns:
        A scalar.

    >>> import torch; from sparsemix import SwitchLoss, TopKRouterConfig
    >>> routing = TopKRouterConfig(k=2).build(8, 4)(torch.randn(16, 8))
    >>> balance_loss(routing, [SwitchLoss(weight=0.02)]).requires_grad
    True
    """
    found = flatten(routings)
    terms = [loss.weight * loss(routing) for routing in found for loss in losses if loss.weight]
    terms += [routing.loss for routing in found if routing.loss is not None]
    check(len(terms) > 0, "balance_loss", "needs a routing and a coefficient above 0", "0 terms")
    return torch.stack(terms).sum()
