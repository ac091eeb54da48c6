"""The losses of 2017: squared variation of the experts' importance and of their expected load."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from sparsemix.balance.batch import (
    combine_weight,
    field,
    mean_of,
    mean_over_tokens,
    num_tokens,
    seen_from_the_whole,
    valid_rows,
    with_count,
)
from sparsemix.config import config
from sparsemix.routing import Routing

ImportanceForm = Literal["weights", "probs"]


def importance(routing: Routing, num_experts: int) -> Tensor:
    """Mean combine weight a token gives to each expert, (E,); padding does not count, dropped edges do."""
    return combine_weight(routing, num_experts) / num_tokens(routing)


def importance_loss(routing: Routing, importance_E: Tensor | None = None, form: ImportanceForm = "weights") -> Tensor:
    """CV^2 of the importance: population variance over squared mean of what the experts are given by all tokens.

    In a two-level mixture weights are products, which makes this its hierarchical form.

    Args:
        routing: of one layer.
        importance_E: the mean importance over a larger batch; value and gradient are then exact as in `switch_loss`.
        form: what a token gives. `weights`: the combine weights of its choices (2017). `probs`: its gate distribution
            over all experts, chosen or not (V-MoE).

    Source: Shazeer 2017 (1701.06538) equation 6 and 7, appendix B; V-MoE (2106.05974).
    """
    given_E = _given(routing, form) / num_tokens(routing)
    return cv_squared(seen_from_the_whole(given_E, importance_E))


def _given(routing: Routing, form: ImportanceForm) -> Tensor:
    """Summed over the valid tokens, (E,)."""
    probs_TE = field(routing, "probs_TE", "importance_loss")
    if form == "probs":
        return valid_rows(routing, probs_TE).sum(0)
    return combine_weight(routing, probs_TE.shape[1])


def expected_load(routing: Routing) -> Tensor:
    """Mean chance of each expert to be selected, (E,): the differentiable load of noisy top-k gating."""
    return mean_over_tokens(routing, field(routing, "load_TE", "load_loss"))


def load_loss(routing: Routing, load_E: Tensor | None = None) -> Tensor:
    """CV^2 of the differentiable load, which noisy routers give in training.

    Args:
        routing: of one layer; `load_TE` is required.
        load_E: the mean `expected_load` over a larger batch; value and gradient are then exact.

    Source: Shazeer 2017 (1701.06538) equation 10 and 11. V-MoE's (2106.05974) differs in the chance, not here.
    """
    return cv_squared(seen_from_the_whole(expected_load(routing), load_E))


def cv_squared(x_E: Tensor) -> Tensor:
    """Population variance over squared mean, 0 where all is 0; no epsilon, which would weigh more with more experts."""
    return x_E.var(unbiased=False) / x_E.mean().square().clamp(min=torch.finfo(x_E.dtype).tiny)


@config
class ImportanceLoss:
    """Squared variation of what the experts are given."""

    type: Literal["importance"] = "importance"
    weight: float = Field(0.1, ge=0)
    """Coefficient; the language models of 2017: 0.1, V-MoE: 0.005."""
    form: ImportanceForm = "weights"
    """Combine weights of the choices, or the gate distribution over all experts (V-MoE)."""

    def statistic(self, routing: Routing) -> Tensor:
        """What each expert is given, and how many tokens there were."""
        return with_count(_given(routing, self.form), routing)

    def __call__(self, routing: Routing, total: Tensor | None = None) -> Tensor:
        """`importance_loss`."""
        return importance_loss(routing, mean_of(total), self.form)


@config
class LoadLoss:
    """Squared variation of the expected load of noisy routers."""

    type: Literal["load"] = "load"
    weight: float = Field(0.1, ge=0)
    """Coefficient; the language models of 2017: 0.1, V-MoE: 0.005."""

    def statistic(self, routing: Routing) -> Tensor:
        """Summed chances of each expert, and how many tokens there were."""
        load_TE = field(routing, "load_TE", "load_loss")
        return with_count(valid_rows(routing, load_TE).sum(0), routing)

    def __call__(self, routing: Routing, total: Tensor | None = None) -> Tensor:
        """`load_loss`."""
        return load_loss(routing, mean_of(total))
