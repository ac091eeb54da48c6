"""Balance among experts that do not cost the same: null, copy and constant ones, and FFNs of different width."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from sparsemix.balance.batch import count, field, mean_of, mean_over_tokens, num_tokens, share, with_count
from sparsemix.checks import check
from sparsemix.config import config
from sparsemix.routing import Routing


def cost_loss(routing: Routing, cost_E: Tensor, load_E: Tensor | None = None) -> Tensor:
    """sum_i c_i f_i P_i: f_i choices of expert i a token, P_i its mean probability, c_i what weighs it.

    Only P carries gradient; f counts choices before capacity dropping, without padding.

    Args:
        routing: of one layer; `probs_TE` is required.
        cost_E: c. MoE++: 1 for FFN experts and tau < 1 for zero, copy and constant ones, so that tokens are drawn to
            what is cheap. HMoE: E times the width of each expert, its P-penalty.
        load_E: choices of each expert a token, as a mean over a larger batch.

    Source: MoE++ (2410.07348) equation 8, which has no factor E; HMoE (2408.10681) equation 7.
    """
    probs_TE = field(routing, "probs_TE", "cost_loss")
    num_experts = probs_TE.shape[1]
    check(len(cost_E) == num_experts, "costs", f"must be {num_experts} numbers, one an expert", len(cost_E))
    if load_E is None:
        load_E = count(routing, "cost_loss").to(probs_TE.dtype) / num_tokens(routing)
    return (cost_E * load_E * mean_over_tokens(routing, probs_TE)).sum()


def null_loss(routing: Routing, num_null: int, load_E: Tensor | None = None) -> Tensor:
    """`switch_loss` in which each of the null experts, placed last, has the mean share of them all.

    How choices spread over experts that all return 0 then makes no difference, only how many there are of them.

    Args:
        routing: of one layer; `probs_TE` is required.
        num_null: how many of the last experts are null.
        load_E: choices of each expert over a larger batch.

    Source: AdaMoE (2406.13233).
    """
    probs_TE = field(routing, "probs_TE", "null_loss")
    num_experts = probs_TE.shape[1]
    check(1 <= num_null < num_experts, "num_null", f"must be in 1..{num_experts - 1}", num_null)
    share_E = share(count(routing, "null_loss") if load_E is None else load_E, probs_TE.dtype)
    null_share = share_E[-num_null:].mean()
    share_E = torch.cat([share_E[:-num_null], null_share.expand(num_null)])
    return num_experts * (share_E * mean_over_tokens(routing, probs_TE)).sum()


@config
class CostLoss:
    """Share of choices times mean probability times what each expert costs."""

    type: Literal["cost"] = "cost"
    costs: tuple[float, ...]
    """One an expert; see `cost_loss`."""
    weight: float = Field(0.01, ge=0)
    """Coefficient; MoE++: 0.01, HMoE: 0.1."""

    def statistic(self, routing: Routing) -> Tensor:
        """Choices of each expert, and how many tokens there were."""
        load_E = count(routing, "cost_loss").to(field(routing, "probs_TE", "cost_loss").dtype)
        return with_count(load_E, routing)

    def __call__(self, routing: Routing, total: Tensor | None = None) -> Tensor:
        """`cost_loss`."""
        cost_E = field(routing, "probs_TE", "cost_loss").new_tensor(self.costs)
        return cost_loss(routing, cost_E, mean_of(total))


@config
class NullLoss:
    """The switch loss with the null experts as one bucket."""

    type: Literal["null"] = "null"
    num_null: int = Field(ge=1)
    """How many of the last experts are null."""
    weight: float = Field(0.01, ge=0)
    """Coefficient."""

    def statistic(self, routing: Routing) -> Tensor:
        """Choices of each expert."""
        return count(routing, "null_loss")

    def __call__(self, routing: Routing, total: Tensor | None = None) -> Tensor:
        """`null_loss`."""
        return null_loss(routing, self.num_null, total)
