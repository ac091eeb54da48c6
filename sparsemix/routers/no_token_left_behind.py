"""No token left behind: whom the first expert has no place for, asks the next."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from sparsemix.balance import Loss, SwitchLoss
from sparsemix.checks import check
from sparsemix.config import config
from sparsemix.routers.base import Stateless
from sparsemix.routers.capacity import CapacityConfig, keeps_causality
from sparsemix.routers.linear import LinearRouter
from sparsemix.routers.select import best, check_k, token_choice
from sparsemix.routing import Routing, TokenInfo


@config
class NoTokenLeftBehindRouterConfig:
    """Each token goes to one expert: the first of its k best that has a place left."""

    type: Literal["no_token_left_behind"] = "no_token_left_behind"
    k: int = Field(4, ge=1)
    """Experts that a token asks at most."""
    capacity: CapacityConfig = CapacityConfig(factor=1.25, factor_eval=2.0, count_choices=False)
    """How many tokens an expert takes."""

    balances_itself = False

    @model_validator(mode="after")
    def _no_expert_for_a_token_that_has_one(self) -> NoTokenLeftBehindRouterConfig:
        check(
            not self.capacity.count_choices,
            "capacity.count_choices",
            "must be False, since a token goes to one expert however many it asks",
            True,
            "set count_choices=False",
        )
        check(
            self.capacity.priority != "probability",
            "capacity.priority",
            "who has a place keeps it against all who ask later",
            "'probability'",
            "use 'position' or 'token'",
        )
        return self

    @property
    def causal(self) -> bool:
        """False but for k=1 by position: a later token's first choice is served before an earlier one's second."""
        return keeps_causality(self.capacity, self.k)

    def edges_per_token(self, num_experts: int) -> float:
        """1, however many are asked."""
        return 1

    def losses(self, num_experts: int) -> tuple[Loss, ...]:
        """The switch loss of first choices, 0.01."""
        return (SwitchLoss(form="first"),)

    def build(self, dim: int, num_experts: int) -> NoTokenLeftBehindRouter:
        """The router over x of width `dim`."""
        return NoTokenLeftBehindRouter(self, dim, num_experts)


class NoTokenLeftBehindRouter(Stateless, LinearRouter):
    """p = softmax(x W^T); in round i = 1..k tokens still without an expert ask their i-th best; weight p of the taker.

    All k choices are edges, of which one at most is live: losses see what the tokens wanted, not what they got.

    Source: Switch (2101.03961), appendix B.
    """

    def __init__(self, config: NoTokenLeftBehindRouterConfig, dim: int, num_experts: int) -> None:
        check_k(config.k, num_experts)
        super().__init__(dim, num_experts)
        self.config, self.causal = config, config.causal

    def forward(self, x_TD: Tensor, info: TokenInfo | None = None, previous: Routing | None = None) -> Routing:
        """K edges a token, best first, at most one of them live."""
        logits_TE = self.logits(x_TD)
        probs_TE = logits_TE.softmax(-1)
        expert_TK = best(probs_TE, self.config.k)
        weight_TK = probs_TE.gather(-1, expert_TK)
        return self._served(token_choice(expert_TK, weight_TK, info, logits_TE=logits_TE, probs_TE=probs_TE))

    def _served(self, routing: Routing) -> Routing:
        """Round after round; those served before come first in the queues, and so stay."""
        num_tokens, k = len(routing.weight_N) // self.config.k, self.config.k
        live_N = torch.ones_like(routing.expert_N, dtype=torch.bool) if routing.live_N is None else routing.live_N
        valid_TK = live_N.view(num_tokens, k)
        live_TK = torch.zeros_like(valid_TK)
        for i in range(k):
            asking_T = valid_TK[:, i] & ~live_TK.any(-1)
            asked_TK = live_TK.clone()
            asked_TK[:, i] = asking_T
            asked = routing._replace(live_N=asked_TK.flatten())
            served = self.config.capacity.limit(asked, num_tokens, self.num_experts, self.training)
            assert served.live_N is not None
            live_TK = served.live_N.view(num_tokens, k)
        return routing._replace(live_N=live_TK.flatten())
