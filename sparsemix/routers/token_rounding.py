"""Token rounding: top-k routing in which every expert's load fills whole tiles of a grouped matrix product."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from sparsemix.balance import USUAL, Loss
from sparsemix.config import config
from sparsemix.routers.base import KExperts, Stateless
from sparsemix.routers.capacity import Rounding
from sparsemix.routers.groups import taken, whole_batch
from sparsemix.routers.linear import LinearRouter
from sparsemix.routers.score import check_gradient, gate_weights
from sparsemix.routers.select import best, check_k, keep, ragged_choice, token_choice
from sparsemix.routing import Routing, TokenInfo


@config
class TokenRoundingRouterConfig(KExperts):
    """Each token goes to its k best experts, but for what it takes to make loads multiples of a tile."""

    type: Literal["token_rounding"] = "token_rounding"
    k: int = Field(8, ge=1)
    """Experts a token, before rounding."""
    normalize: bool = True
    """Divide the k weights by their sum."""
    tile: int = Field(128, ge=1)
    """Rows of a tile; an expert with less than half of one gets none, so that T k / E should be several tiles."""
    rounding: Rounding = "nearest"
    """To a whole number of tiles; nearest: a half to the even number."""

    causal = False  # in training, later tokens compete for the same places
    balances_itself = False

    @model_validator(mode="after")
    def _router_gets_gradient(self) -> TokenRoundingRouterConfig:
        check_gradient(self.k, "softmax_topk", self.normalize)
        return self

    def losses(self, num_experts: int) -> tuple[Loss, ...]:
        """Switch and z-loss, as for the top-k router that it is in evaluation."""
        return USUAL

    def build(self, dim: int, num_experts: int) -> TokenRoundingRouter:
        """The router over x of width `dim`."""
        return TokenRoundingRouter(self, dim, num_experts)


class TokenRoundingRouter(Stateless, LinearRouter):
    """p = softmax(x W^T), top k, weighted by p over the sum of the k; then, in training, loads are rounded.

    An expert with too many tokens drops those with the lowest weight; one with too few takes others, those with the
    highest p first, with weight p. It never takes a token twice, so that no load exceeds T.
    Edges are then ragged: `torch.compile` breaks the graph there.

    Source: SonicMoE (2512.14080), token rounding, and its released code.
    """

    def __init__(self, config: TokenRoundingRouterConfig, dim: int, num_experts: int) -> None:
        check_k(config.k, num_experts)
        super().__init__(dim, num_experts)
        self.config, self.causal = config, config.causal

    def forward(self, x_TD: Tensor, info: TokenInfo | None = None, previous: Routing | None = None) -> Routing:
        """K edges a token in evaluation; in training those added as well, by token, and those dropped not live."""
        logits_TE = self.logits(x_TD)
        probs_TE = logits_TE.softmax(-1)
        expert_TK = best(probs_TE, self.config.k)
        share_TK = gate_weights("softmax_topk", probs_TE.gather(-1, expert_TK), normalize=True)
        weight_TK = share_TK if self.config.normalize else probs_TE.gather(-1, expert_TK)
        if not self.training:
            return token_choice(expert_TK, weight_TK, info, logits_TE=logits_TE, probs_TE=probs_TE)
        kept_TE = self._rounded(logits_TE, expert_TK, share_TK, info)
        chosen_TE = kept_TE.scatter(-1, expert_TK, True)
        weight_TE = probs_TE.scatter(-1, expert_TK, weight_TK)
        routing = ragged_choice(chosen_TE, weight_TE, info, logits_TE=logits_TE, probs_TE=probs_TE)
        return keep(routing, kept_TE[routing.token_N, routing.expert_N])

    @torch.no_grad()
    def _rounded(self, logits_TE: Tensor, expert_TK: Tensor, share_TK: Tensor, info: TokenInfo | None) -> Tensor:
        """The edges to compute, bool (T, E)."""
        batch_1S = whole_batch(logits_TE, info)
        # Own tokens by their share and before all others, which the released code ranks by p - 1: log p is exact.
        preference_TE = logits_TE.log_softmax(-1).scatter(-1, expert_TK, share_TK)
        load_E = torch.bincount(expert_TK[batch_1S[0]].flatten(), minlength=self.num_experts)
        return taken(preference_TE, batch_1S, self._whole_tiles(load_E)[None])

    def _whole_tiles(self, load_E: Tensor) -> Tensor:
        tiles_E = load_E.double() / self.config.tile
        whole = {"up": torch.ceil, "down": torch.floor, "nearest": torch.round}[self.config.rounding]
        return whole(tiles_E).long() * self.config.tile
