"""ReMoE: ReLU as the gate, fully differentiable, held sparse by a penalty that follows the sparsity."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from sparsemix.balance import Loss
from sparsemix.balance.batch import combine_weight, num_tokens
from sparsemix.config import config
from sparsemix.routers.base import KExperts, wide_dtype
from sparsemix.routers.linear import LinearRouter
from sparsemix.routers.select import check_k, ragged_choice
from sparsemix.routing import Routing, TokenInfo, load, num_valid_tokens


@config
class ReLURouterConfig(KExperts):
    """Each token goes to every expert with a positive logit, which is the weight."""

    type: Literal["relu"] = "relu"
    k: int = Field(1, ge=1)
    """Experts a token that the penalty aims at on average."""
    coefficient: float = Field(1e-8, gt=0)
    """Of the penalty, at first: training begins dense."""
    growth: float = Field(1.2, gt=1)
    """What the coefficient is multiplied with, or divided by, once an optimiser step."""

    causal = True
    balances_itself = False  # its penalty, which also balances, is `Routing.loss`

    def losses(self, num_experts: int) -> tuple[Loss, ...]:
        """None beside `Routing.loss`."""
        return ()

    def build(self, dim: int, num_experts: int) -> ReLURouter:
        """The router over x of width `dim`."""
        return ReLURouter(self, dim, num_experts)


class ReLURouter(LinearRouter):
    """Weights relu(x W^T), an edge where positive; a token may have none. `Routing.loss` = lambda times `penalty`.

    lambda, a buffer, is multiplied by 1.2 after a step with fewer zeros than 1 - k / E of the gates, and otherwise
    divided by it. There is no distribution over experts, so that losses which read one refuse this router. Edges are
    ragged: `torch.compile` breaks the graph there.

    Source: ReMoE (2412.14711). Differs: the paper's one lambda follows the mean sparsity of all layers; here each
    layer's follows its own.
    """

    def __init__(self, config: ReLURouterConfig, dim: int, num_experts: int) -> None:
        check_k(config.k, num_experts)
        super().__init__(dim, num_experts)  # symmetric about 0: half of the logits are positive
        self.config, self.causal = config, config.causal
        self.register_buffer("coefficient", torch.tensor(config.coefficient, dtype=wide_dtype()))
        self.coefficient: Tensor

    def forward(self, x_TD: Tensor, info: TokenInfo | None = None, previous: Routing | None = None) -> Routing:
        """Any number of edges a token."""
        logits_TE = self.logits(x_TD)
        routing = ragged_choice(logits_TE > 0, logits_TE, info, logits_TE=logits_TE)
        return routing._replace(loss=self.coefficient * penalty(routing, self.config.k, self.num_experts))

    def statistic(self, routing: Routing) -> Tensor:
        """How many gates are 0, and how many gates there are."""
        assert routing.logits_TE is not None
        edges = load(routing, self.num_experts).sum()
        gates = torch.zeros_like(edges) + num_valid_tokens(routing, len(routing.logits_TE)) * self.num_experts
        return torch.stack([gates - edges, gates])

    @torch.no_grad()
    def update(self, total: Tensor) -> None:
        """Raise the coefficient where the gates of the whole batch are too dense, else lower it."""
        zeros, gates = total
        too_dense = zeros * self.num_experts < gates * (self.num_experts - self.config.k)  # exact in integers
        growth = self.config.growth
        stepped = torch.where(too_dense, self.coefficient * growth, self.coefficient / growth)
        tiny = torch.finfo(self.coefficient.dtype).tiny
        stepped = stepped.clamp(tiny, 1 / tiny)  # 0 could never grow again
        self.coefficient.copy_(torch.where(gates > 0, stepped, self.coefficient))


def penalty(routing: Routing, k: int, num_experts: int) -> Tensor:
    """E / (T^2 k) sum_e (sum_t r_te) n_e, with r the weights and n_e how many tokens expert e has.

    The mean sum of a token's weights where n_e = T k / E; the weights of experts that have more count more. Gradient
    flows through r; padding does not count.
    """
    tokens, weight_E = num_tokens(routing), combine_weight(routing, num_experts)
    load_E = load(routing, num_experts).to(weight_E.dtype)
    return num_experts / k * (weight_E / tokens * (load_E / tokens)).sum()
