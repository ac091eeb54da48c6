"""The top-k router: each token chooses its k best experts."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from sparsemix.balance import bias_step
from sparsemix.checks import check, check_dim
from sparsemix.config import config
from sparsemix.routers.base import WideModule, live_edges, wide_dtype
from sparsemix.routers.score import Gate, gate_distribution, gate_scores, jitter, linear_scores
from sparsemix.routers.select import capacity, position_order, probability_order, selection_probability
from sparsemix.routing import Routing, TokenInfo, drop_over_capacity, load


@config
class TopKRouterConfig:
    """Each token goes to its k best experts."""

    type: Literal["topk"] = "topk"
    k: int = Field(2, ge=1)
    """Experts a token."""
    gate: Gate = "softmax_topk"
    """Softmax over all experts and then the top k; softmax over the chosen k only; or a sigmoid each."""
    normalize: bool = True
    """Divide the k weights by their sum (topk_softmax sums to 1 as it is)."""
    capacity_factor: float | None = Field(None, gt=0)
    """An expert takes at most ceil(factor T k / E) tokens in training; none: dropless."""
    capacity_factor_eval: float | None = Field(None, gt=0)
    """The same in evaluation."""
    priority: Literal["position", "probability"] = "position"
    """Who is served first under a capacity: earlier choices and positions, or larger gates."""
    noise: bool = False
    """Learned Gaussian noise on the logits in training (noisy top-k gating, 2017)."""
    jitter: float = Field(0.0, ge=0, lt=1)
    """Multiply the router's input by uniform noise in 1 +- jitter in training (Switch)."""
    bias: bool = False
    """A bias that takes part in the selection only, and follows the load (auxiliary-loss-free balancing)."""
    bias_rate: float = Field(0.001, ge=0)
    """Step of that bias, once an optimiser step."""

    @model_validator(mode="after")
    def _router_gets_gradient(self) -> TopKRouterConfig:
        constant = self.gate == "topk_softmax" or self.normalize
        check(
            self.k > 1 or not constant,
            "k",
            "one expert whose weight is normalised to 1 gives the router no gradient",
            f"k=1 with gate={self.gate}, normalize={self.normalize}",
            "use gate='softmax_topk' or 'sigmoid' with normalize=False, or k >= 2",
        )
        return self

    def build(self, dim: int, num_experts: int) -> TopKRouter:
        """The router over x of width `dim`."""
        return TopKRouter(self, dim, num_experts)


class TopKRouter(WideModule):
    """Top-k routing: logits = x W^T, gate, choose k, weight.

    Source: 1701.06538 (noise), 2101.03961 (jitter, top-1), 2401.04088 (topk_softmax), 2412.19437 (sigmoid, bias).
    """

    def __init__(self, config: TopKRouterConfig, dim: int, num_experts: int) -> None:
        super().__init__()
        check(
            config.k <= num_experts,
            "k",
            "must be in 1..num_experts",
            f"k={config.k} with num_experts={num_experts}",
            "lower k or add experts",
        )
        self.config, self.num_experts = config, num_experts
        dtype = wide_dtype()  # also where the rest of the model is built in bfloat16
        self.weight_ED = nn.Parameter(torch.empty(num_experts, dim, dtype=dtype))
        self.noise_ED = nn.Parameter(torch.empty(num_experts, dim, dtype=dtype)) if config.noise else None
        self.register_buffer("bias_E", torch.zeros(num_experts, dtype=dtype) if config.bias else None)
        self.bias_E: Tensor | None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Small normal logits; no noise signal, so that its standard deviation begins at softplus(0) = ln 2."""
        nn.init.normal_(self.weight_ED, std=0.02)
        if self.noise_ED is not None:
            nn.init.zeros_(self.noise_ED)

    @property
    def causal(self) -> bool:
        """False where a later token can take an earlier one's place in an expert.

        By position that is so for k > 1: a later token's first choice is served before an earlier one's second.
        """
        factors = (self.config.capacity_factor, self.config.capacity_factor_eval)
        return factors == (None, None) or (self.config.priority == "position" and self.config.k == 1)

    def forward(self, x_TD: Tensor, info: TokenInfo | None = None, previous: Routing | None = None) -> Routing:
        """Route T tokens.

        Args:
            x_TD: tokens, any floating dtype; logits are computed in at least float32.
            info: `valid_T` keeps padding out of experts, capacity and losses.
            previous: the routing of the layer below; not used.

        Returns:
            K edges a token, in token order; gradient flows through `weight_N`, `logits_TE`, `probs_TE`, `load_TE`.
        """
        check_dim("x", x_TD, -1, self.weight_ED.shape[1])
        k = self.config.k
        if self.training and self.config.jitter:
            x_TD = jitter(x_TD, self.config.jitter)
        logits_TE = linear_scores(x_TD, self.weight_ED)
        noisy_TE, load_TE = self._add_noise(x_TD, logits_TE)
        scores_TE = gate_scores(self.config.gate, noisy_TE)
        expert_TK, weight_TK = self._choose(scores_TE)
        scores_are_probs = self.config.gate == "softmax_topk" and noisy_TE is logits_TE
        token_N = torch.arange(len(x_TD), device=x_TD.device).repeat_interleave(k)
        routing = Routing(
            token_N=token_N,
            expert_N=expert_TK.reshape(-1),
            weight_N=weight_TK.reshape(-1),
            live_N=live_edges(info, token_N, len(x_TD)),
            logits_TE=logits_TE,
            probs_TE=scores_TE if scores_are_probs else gate_distribution(self.config.gate, logits_TE),
            load_TE=load_TE,
            edges_per_token=k,
            info=info,
        )
        return self._limit(routing, len(x_TD))

    def _add_noise(self, x_TD: Tensor, logits_TE: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.noise_ED is None or not self.training:
            return logits_TE, None
        scale_TE = F.softplus(linear_scores(x_TD, self.noise_ED)) + 1e-2  # the floor of the 2017 code
        noisy_TE = logits_TE + torch.randn_like(logits_TE) * scale_TE
        if self.bias_E is not None:  # it shifts the selection by no known amount of logits
            return noisy_TE, None
        if self.config.k == self.num_experts:
            return noisy_TE, torch.ones_like(logits_TE)
        return noisy_TE, selection_probability(logits_TE, noisy_TE, scale_TE, self.config.k)

    def _choose(self, scores_TE: Tensor) -> tuple[Tensor, Tensor]:
        """The chosen experts by what the bias adds to the scores, and their weights by the scores alone."""
        gate, k = self.config.gate, self.config.k
        biased_TE = scores_TE if self.bias_E is None else scores_TE + self.bias_E
        expert_TK = biased_TE.detach().topk(k, dim=-1).indices
        weight_TK = scores_TE.gather(-1, expert_TK)
        if gate == "topk_softmax":
            return expert_TK, weight_TK.softmax(-1)
        if self.config.normalize:
            weight_TK = weight_TK / (weight_TK.sum(-1, keepdim=True) + 1e-20)
        return expert_TK, weight_TK

    def _limit(self, routing: Routing, num_tokens: int) -> Routing:
        factor = self.config.capacity_factor if self.training else self.config.capacity_factor_eval
        if factor is None:
            return routing
        if self.config.priority == "position":
            order_N = position_order(num_tokens, self.config.k, routing.token_N.device)
        else:
            order_N = probability_order(routing.weight_N)
        limit = capacity(num_tokens, self.config.k, self.num_experts, factor)
        return drop_over_capacity(routing, self.num_experts, limit, order_N)

    def statistic(self, routing: Routing) -> Tensor | None:
        """The load of each expert, where a selection bias follows it."""
        return None if self.bias_E is None else load(routing, self.num_experts)

    @torch.no_grad()
    def update(self, total: Tensor) -> None:
        """Move the selection bias one step against the load of the whole batch."""
        assert self.bias_E is not None
        self.bias_E.copy_(bias_step(self.bias_E, total, self.config.bias_rate))
