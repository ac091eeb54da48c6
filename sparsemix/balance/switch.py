"""The loss of Switch, GShard and most who came after: share of choices times mean probability."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from sparsemix.balance.batch import count, field, first_choices, fixed_k, mean_over_tokens, share
from sparsemix.config import config
from sparsemix.routing import Routing

SwitchForm = Literal["all", "all_times_k", "first", "gshard"]


def switch_loss(routing: Routing, load_E: Tensor | None = None, form: SwitchForm = "all") -> Tensor:
    """E sum_i f_i P_i: f_i the share of choices that went to expert i, P_i the mean gate probability of i.

    1 for a uniform load, E when all tokens and all probability are on one expert; it can fall below 1 where f and P
    disagree. Only P carries gradient; f counts choices before capacity dropping, without padding.

    Args:
        routing: of one layer; `probs_TE` is required.
        load_E: choices of each expert over a larger batch (all micro-batches, all ranks), of the kind that `form`
            counts. The mean of the losses of the parts, weighted by their tokens, is then exactly the loss of the
            whole, and so is its gradient.
        form: what f counts, and the value at a uniform load. `all`: all k choices, 1 (OLMoE, Megablocks, SonicMoE).
            `all_times_k`: all k choices a token, k (transformers' Mixtral, flaxformer). `first`: first choices
            alone, 1 (Switch, Mesh TensorFlow). `gshard`: first choices, and a mean over experts of f P, 1 / E^2.

    Returns:
        A scalar.

    Raises:
        ValueError: the routing has no `probs_TE`, or no first choices.

    Source: Switch (2101.03961) equations 4 to 6; GShard (2006.16668) algorithm 1; OLMoE (2409.02060).
    """
    probs_TE = field(routing, "probs_TE", "switch_loss")
    num_experts = probs_TE.shape[1]
    load_E = count(_counted(routing, form), "switch_loss") if load_E is None else load_E
    loss = num_experts * (share(load_E, probs_TE.dtype) * mean_over_tokens(routing, probs_TE)).sum()
    if form == "all_times_k":
        return loss * fixed_k(routing)
    return loss / num_experts**2 if form == "gshard" else loss


def _counted(routing: Routing, form: SwitchForm) -> Routing:
    return first_choices(routing) if form in ("first", "gshard") else routing


@config
class SwitchLoss:
    """Share of choices times mean probability."""

    type: Literal["switch"] = "switch"
    weight: float = Field(0.01, ge=0)
    """Coefficient; Switch and OLMoE: 0.01."""
    form: SwitchForm = "all"
    """What is counted, and what a uniform load costs; see `switch_loss`."""

    def statistic(self, routing: Routing) -> Tensor:
        """Choices of each expert."""
        return count(_counted(routing, self.form), "switch_loss")

    def __call__(self, routing: Routing, total: Tensor | None = None) -> Tensor:
        """`switch_loss`."""
        return switch_loss(routing, total, self.form)
