"""DeepSeek's routers: the best experts of a few groups, each of which lives on a device."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from sparsemix.balance import CommunicationLoss, DeviceLoss, Loss, SequenceLoss, SwitchLoss
from sparsemix.checks import check
from sparsemix.config import config
from sparsemix.routers.base import KExperts
from sparsemix.routers.capacity import CapacityConfig, Limited, limited
from sparsemix.routers.linear import LinearRouter
from sparsemix.routers.score import check_gradient
from sparsemix.routers.select import among_best, check_k, gated_choice
from sparsemix.routers.selection_bias import MaybeBiased, SelectionBiasConfig
from sparsemix.routing import Routing, TokenInfo

GroupScore = Literal["best", "two_best"]


@config
class GroupLimitedRouterConfig(KExperts, Limited):
    """Each token goes to its k best experts in the best few of the groups of experts.

    As it stands it is DeepSeek-V3's. DeepSeek-V2's: k=6, keep_groups=3, gate='softmax_topk', group_score='best',
    normalize=False, selection_bias=None.
    """

    type: Literal["group_limited"] = "group_limited"
    k: int = Field(8, ge=1)
    """Experts a token."""
    num_groups: int = Field(8, ge=1)
    """Groups of consecutive experts, which must divide them evenly: devices, or nodes of them."""
    keep_groups: int = Field(4, ge=1)
    """Groups that a token's experts may be in."""
    gate: Literal["softmax_topk", "sigmoid"] = "sigmoid"
    """Softmax over all experts (V2), or a sigmoid each (V3)."""
    group_score: GroupScore = "two_best"
    """What groups compete by: their best expert (V2), or the sum of their two best (V3)."""
    normalize: bool = True
    """Divide the k weights by their sum (V3)."""
    selection_bias: SelectionBiasConfig | None = SelectionBiasConfig()
    """A bias that takes part in the selection of groups and experts only, and follows the load (V3)."""
    outside: Literal["never", "zero"] = "never"
    """What experts outside the kept groups count: they are never chosen (DeepSeek), or count 0 (transformers), which
    beats an expert inside whose biased score is negative."""
    capacity: CapacityConfig | None = None
    """How many tokens an expert takes; none: dropless."""

    balances_itself = False

    @model_validator(mode="after")
    def _router_gets_gradient(self) -> GroupLimitedRouterConfig:
        check_gradient(self.k, self.gate, self.normalize)
        return self

    @model_validator(mode="after")
    def _groups_exist(self) -> GroupLimitedRouterConfig:
        seen = f"keep_groups={self.keep_groups} with num_groups={self.num_groups}"
        check(self.keep_groups <= self.num_groups, "keep_groups", "must be at most num_groups", seen, "keep fewer")
        return self

    def losses(self, num_experts: int) -> tuple[Loss, ...]:
        """The sequence loss, 0.0001 (V3); with softmax those of experts, devices and communication (V2)."""
        if self.gate == "sigmoid":
            return (SequenceLoss(),)
        return (
            SwitchLoss(weight=0.003),
            DeviceLoss(num_devices=self.num_groups),
            CommunicationLoss(num_devices=self.num_groups, devices_per_token=self.keep_groups),
        )

    def build(self, dim: int, num_experts: int) -> GroupLimitedRouter:
        """The router over x of width `dim`."""
        return GroupLimitedRouter(self, dim, num_experts)


class GroupLimitedRouter(MaybeBiased, LinearRouter):
    """c = s + b; groups compete by their best c; the k best c of the kept groups; weights s / sum s, without b.

    Source: DeepSeek-V2 (2405.04434), section 2.2.2; DeepSeek-V3 (2412.19437), equations 12 to 16. The scale of the
    routed experts (V2: 16, V3: 2.5) is `MoEConfig.routed_scale`.
    """

    def __init__(self, config: GroupLimitedRouterConfig, dim: int, num_experts: int) -> None:
        _check_groups(config, num_experts)
        super().__init__(dim, num_experts)
        self.config, self.causal = config, config.causal
        self.selection_bias = config.selection_bias and config.selection_bias.build(num_experts)

    def forward(self, x_TD: Tensor, info: TokenInfo | None = None, previous: Routing | None = None) -> Routing:
        """K edges a token, in token order."""
        k, gate, normalize = self.config.k, self.config.gate, self.config.normalize
        routing = gated_choice(self.logits(x_TD), k, gate, normalize, info, self._preference)
        return limited(self.config.capacity, routing, len(x_TD), self.num_experts, self.training)

    def _preference(self, scores_TE: Tensor) -> Tensor:
        """Biased scores in the kept groups."""
        biased_TE = scores_TE if self.selection_bias is None else self.selection_bias(scores_TE)
        config = self.config
        inside_TE = in_best_groups(biased_TE, config.num_groups, config.keep_groups, config.group_score)
        return biased_TE.masked_fill(~inside_TE, 0.0 if config.outside == "zero" else -torch.inf)


def in_best_groups(scores_TE: Tensor, num_groups: int, keep: int, group_score: GroupScore) -> Tensor:
    """bool (T, E): whether the expert is in one of the `keep` best groups of the token."""
    num_tokens, num_experts = scores_TE.shape
    size = num_experts // num_groups
    counted = 1 if group_score == "best" else min(2, size)
    scores_TG = scores_TE.detach().view(num_tokens, num_groups, size).topk(counted, dim=-1).values.sum(-1)
    return among_best(scores_TG, keep).repeat_interleave(size, dim=-1)


def _check_groups(config: GroupLimitedRouterConfig, num_experts: int) -> None:
    check_k(config.k, num_experts)
    rule, remedy = f"must divide the {num_experts} experts", "choose a divisor"
    check(num_experts % config.num_groups == 0, "num_groups", rule, config.num_groups, remedy)
    kept = config.keep_groups * num_experts // config.num_groups
    rule, remedy = f"must be at most the {kept} experts of {config.keep_groups} groups", "lower k or keep more groups"
    check(config.k <= kept, "k", rule, config.k, remedy)
