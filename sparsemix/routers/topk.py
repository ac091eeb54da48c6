"""The top-k router: each token chooses its k best experts."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from torch import Tensor

from sparsemix.balance import USUAL, Loss, SequenceLoss
from sparsemix.checks import check
from sparsemix.config import config
from sparsemix.routers.base import KExperts
from sparsemix.routers.capacity import CapacityConfig, Limited, limited
from sparsemix.routers.linear import LinearRouter
from sparsemix.routers.score import Gate, check_gradient
from sparsemix.routers.select import check_k, gated_choice
from sparsemix.routers.selection_bias import MaybeBiased, SelectionBiasConfig
from sparsemix.routing import Routing, TokenInfo


@config
class TopKRouterConfig(KExperts, Limited):
    """Each token goes to its k best experts."""

    type: Literal["topk"] = "topk"
    k: int = Field(2, ge=1)
    """Experts a token."""
    gate: Gate = "softmax_topk"
    """Softmax over all experts and then the top k; softmax over the chosen k only; or a sigmoid each."""
    normalize: bool = True
    """Divide the k weights by their sum (topk_softmax sums to 1 as it is)."""
    bias: bool = False
    """Logits have a trained bias (gpt-oss)."""
    selection_bias: SelectionBiasConfig | None = None
    """A bias that takes part in the selection only, and follows the load (auxiliary-loss-free balancing)."""
    capacity: CapacityConfig | None = None
    """How many tokens an expert takes; none: dropless."""

    balances_itself = False

    @model_validator(mode="after")
    def _router_gets_gradient(self) -> TopKRouterConfig:
        check_gradient(self.k, self.gate, self.normalize)
        return self

    @model_validator(mode="after")
    def _scores_are_positive(self) -> TopKRouterConfig:
        multiplied = self.selection_bias is not None and self.selection_bias.form == "multiplicative"
        check(
            not (multiplied and self.gate == "topk_softmax"),
            "selection_bias.form",
            "multiplies scores, which must not be negative",
            "multiplicative with gate=topk_softmax",
            "use 'additive', or another gate",
        )
        return self

    def losses(self, num_experts: int) -> tuple[Loss, ...]:
        """Switch and z-loss; beside a selection bias the sequence loss alone (DeepSeek-V3)."""
        return USUAL if self.selection_bias is None else (SequenceLoss(),)

    def build(self, dim: int, num_experts: int) -> TopKRouter:
        """The router over x of width `dim`."""
        return TopKRouter(self, dim, num_experts)


class TopKRouter(MaybeBiased, LinearRouter):
    """Top-k routing: logits = x W^T, gate, choose k, weight.

    Source: 2401.04088 (Mixtral: topk_softmax), 2409.02060 (OLMoE: softmax_topk, not normalised), 2505.09388 (Qwen3:
    softmax_topk, normalised), 2508.10925 (gpt-oss: topk_softmax with bias), 2408.15664 (sigmoid, selection bias).
    """

    def __init__(self, config: TopKRouterConfig, dim: int, num_experts: int) -> None:
        check_k(config.k, num_experts)
        super().__init__(dim, num_experts, bias=config.bias)
        self.config, self.causal = config, config.causal
        self.selection_bias = config.selection_bias and config.selection_bias.build(num_experts)

    def forward(self, x_TD: Tensor, info: TokenInfo | None = None, previous: Routing | None = None) -> Routing:
        """Route T tokens.

        Args:
            x_TD: tokens, any floating dtype; logits are computed in at least float32.
            info: `valid_T` keeps padding out of experts, capacity and losses.
            previous: the routing of the layer below; not used.

        Returns:
            K edges a token, in token order; gradient flows through `weight_N`, `logits_TE`, `probs_TE`.
        """
        k, gate, normalize = self.config.k, self.config.gate, self.config.normalize
        routing = gated_choice(self.logits(x_TD), k, gate, normalize, info, self.selection_bias)
        return limited(self.config.capacity, routing, len(x_TD), self.num_experts, self.training)
