"""The z-loss, which keeps logits small."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from sparsemix.balance.batch import field, mean_over_tokens
from sparsemix.config import config
from sparsemix.routing import Routing


def z_loss(routing: Routing) -> Tensor:
    """mean_t (logsumexp_i logits_ti)^2, which keeps the router's logits small; (ln E)^2 for zero logits.

    Padding does not count. Source: ST-MoE (2202.08906) equation 5.
    """
    logits_TE = field(routing, "logits_TE", "z_loss")
    return mean_over_tokens(routing, logits_TE.logsumexp(-1, keepdim=True).square()).sum()


@config
class ZLoss:
    """Mean squared logsumexp of the router's logits."""

    type: Literal["z"] = "z"
    weight: float = Field(0.001, ge=0)
    """Coefficient; ST-MoE: 0.001."""

    def statistic(self, routing: Routing) -> None:
        """Nothing: it is a mean over tokens."""

    def __call__(self, routing: Routing, total: Tensor | None = None) -> Tensor:
        """`z_loss`."""
        return z_loss(routing)
