"""Strictly balanced gating: in training experts take equally many tokens, in evaluation those above a threshold."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from sparsemix.config import config
from sparsemix.routers.base import KExperts, SelfBalanced, Stateless, wide_dtype
from sparsemix.routers.groups import fair_share, taken, whole_batch
from sparsemix.routers.linear import LinearRouter
from sparsemix.routers.score import softmax_among
from sparsemix.routers.select import check_k, ragged_choice
from sparsemix.routing import Routing, TokenInfo


@config
class BatchwiseRouterConfig(KExperts, SelfBalanced):
    """Each expert takes its best k / E of the batch, and later the tokens above a threshold learned from that."""

    type: Literal["batchwise"] = "batchwise"
    k: int = Field(4, ge=1)
    """Experts of a token on average."""
    threshold_weight: float = Field(1.0, ge=0)
    """Coefficient of the loss that the thresholds learn from."""

    causal = False  # in training, whether an expert takes a token depends on later ones

    def build(self, dim: int, num_experts: int) -> BatchwiseRouter:
        """The router over x of width `dim`."""
        return BatchwiseRouter(self, dim, num_experts)


class BatchwiseRouter(Stateless, LinearRouter):
    """g = softmax(x W^T) M / sum(softmax(x W^T) M): M marks each expert's k T / E best tokens of the batch.

    In evaluation M marks p > threshold. Thresholds learn from sum_i (above - M)_ti (p_ti - threshold_i), whose
    gradient raises an expert's threshold where more tokens are above it than it took. A token in no M goes nowhere.
    Edges are ragged: `torch.compile` breaks the graph there.

    Source: Shazeer 2017 (1701.06538), appendix F. Differs: the thresholds' loss is a mean over
    tokens instead of a sum; thresholds are kept as multiples of 1 / E, the mean of p, and begin there.
    """

    def __init__(self, config: BatchwiseRouterConfig, dim: int, num_experts: int) -> None:
        check_k(config.k, num_experts)
        super().__init__(dim, num_experts)
        self.config, self.causal = config, config.causal
        self.threshold_E = nn.Parameter(torch.ones(num_experts, dtype=wide_dtype()))

    def forward(self, x_TD: Tensor, info: TokenInfo | None = None, previous: Routing | None = None) -> Routing:
        """An edge for each choice, by token."""
        logits_TE = self.logits(x_TD)
        probs_TE = logits_TE.softmax(-1)
        over_TE = probs_TE - self.threshold_E / self.num_experts
        chosen_TE, loss = over_TE > 0, None
        if self.training:
            batch_1S = whole_batch(x_TD, info)
            above_TE = chosen_TE
            chosen_TE = taken(probs_TE, batch_1S, fair_share(batch_1S, len(x_TD), self.config.k, self.num_experts))
            disagreed_TE = above_TE.to(over_TE.dtype) - chosen_TE.to(over_TE.dtype)
            total_S = (disagreed_TE * over_TE).sum(-1)[batch_1S[0]]
            loss = self.config.threshold_weight * total_S.sum() / max(len(total_S), 1)
        weight_TE = softmax_among(logits_TE, chosen_TE)
        return ragged_choice(chosen_TE, weight_TE, info, logits_TE=logits_TE, probs_TE=probs_TE, loss=loss)
