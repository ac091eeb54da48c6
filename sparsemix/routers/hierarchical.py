"""The mixture of mixtures of 2017: noisy top-k gating of groups, and of the experts in each group."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from sparsemix.balance import ImportanceLoss, LoadLoss, Loss
from sparsemix.balance.batch import valid_rows
from sparsemix.checks import check
from sparsemix.config import config
from sparsemix.routers.base import Stateless
from sparsemix.routers.capacity import CapacityConfig, keeps_causality, limited
from sparsemix.routers.noisy import NoisyLogits
from sparsemix.routers.select import among_best, best, selection_probability, token_choice
from sparsemix.routing import Routing, TokenInfo


@config
class HierarchicalRouterConfig:
    """Each token goes to the k best experts of each of its k_groups best groups."""

    type: Literal["hierarchical"] = "hierarchical"
    num_groups: int = Field(16, ge=2)
    """Groups of consecutive experts, which must divide them evenly."""
    k_groups: int = Field(2, ge=2)
    """Groups a token; one whose weight is always 1 would give the router no gradient."""
    k: int = Field(2, ge=2)
    """Experts a token in each of its groups."""
    noise_floor: float = Field(1e-2, ge=0)
    """Added to the standard deviation of the noise."""
    capacity: CapacityConfig | None = None
    """How many tokens an expert takes; none: dropless."""

    balances_itself = False

    @property
    def causal(self) -> bool:
        """False where a capacity lets a later token take an earlier one's place in an expert."""
        return keeps_causality(self.capacity, self.k_groups * self.k)

    def edges_per_token(self, num_experts: int) -> float:
        """k_groups k."""
        return self.k_groups * self.k

    def losses(self, num_experts: int) -> tuple[Loss, ...]:
        """Importance and load, 0.1 each."""
        return ImportanceLoss(), LoadLoss()

    def build(self, dim: int, num_experts: int) -> HierarchicalRouter:
        """The router over x of width `dim`."""
        return HierarchicalRouter(self, dim, num_experts)


class HierarchicalRouter(Stateless, nn.Module):
    """w_ij = G(x)_i G_i(x)_j: noisy top-k gates of the groups i, and of the experts j of each group.

    `logits_TE` is the sum of both levels' logits, `probs_TE` the product of their distributions, both without noise.

    Source: Shazeer 2017 (1701.06538), appendix B. Differs as `NoisyTopKRouter` does.
    """

    def __init__(self, config: HierarchicalRouterConfig, dim: int, num_experts: int) -> None:
        _check_groups(config, num_experts)
        super().__init__()
        self.config, self.causal, self.num_experts = config, config.causal, num_experts
        self.groups = NoisyLogits(dim, config.num_groups, config.noise_floor)
        self.members = NoisyLogits(dim, num_experts, config.noise_floor)

    def forward(self, x_TD: Tensor, info: TokenInfo | None = None, previous: Routing | None = None) -> Routing:
        """k_groups k edges a token, those of larger weight first; `load_TE` in training."""
        upper_TG, noisy_TG, scale_TG = self.groups.noisy_logits(x_TD)
        lower_TE, noisy_TE, scale_TE = self.members.noisy_logits(x_TD)
        groups = best(noisy_TG, self.config.k_groups)
        expert_TK, weight_TK = _choices(noisy_TG, self._by_group(noisy_TE), groups, self.config.k)
        lower_TGe = self._by_group(lower_TE)
        routing = token_choice(
            expert_TK,
            weight_TK,
            info,
            logits_TE=(upper_TG[..., None] + lower_TGe).flatten(1),
            probs_TE=(upper_TG.softmax(-1)[..., None] * lower_TGe.softmax(-1)).flatten(1),
        )
        if scale_TG is not None and scale_TE is not None:
            chance_TG = selection_probability(upper_TG, noisy_TG, scale_TG, self.config.k_groups)
            chance_TGe = self._chances(lower_TE, noisy_TE, scale_TE)
            load_TGe = hierarchical_load(routing, chance_TG, chance_TGe, among_best(noisy_TG, self.config.k_groups))
            routing = routing._replace(load_TE=load_TGe.flatten(1))
        return limited(self.config.capacity, routing, len(x_TD), self.num_experts, self.training)

    def _by_group(self, logits_TE: Tensor) -> Tensor:
        """(T, G, e)."""
        return logits_TE.unflatten(-1, (self.config.num_groups, -1))

    def _chances(self, clean_TE: Tensor, noisy_TE: Tensor, scale_TE: Tensor) -> Tensor:
        """Each expert's chance to be among the k best of its group, (T, G, e)."""
        clean, noisy, scale = (self._by_group(part).flatten(0, 1) for part in (clean_TE, noisy_TE, scale_TE))
        return selection_probability(clean, noisy, scale, self.config.k).unflatten(0, (-1, self.config.num_groups))


def hierarchical_load(routing: Routing, chance_TG: Tensor, chance_TGe: Tensor, comes_TG: Tensor) -> Tensor:
    """Load_p(X)_i P_i(x, j) / |X_i| for x in X_i, else 0: summed over x it is Load_p(X)_i Load_i(X_i)_j / |X_i|.

    Args:
        routing: says which tokens are padding, and so in no X.
        chance_TG: each group's chance to be chosen; summed over valid tokens it is Load_p.
        chance_TGe: P_i, each expert's chance to be chosen in its group.
        comes_TG: bool, whether the token goes to the group, that is, is in X_i.

    Returns:
        (T, G, e); gradient flows through both chances. A group to which no token goes has a load of 0.

    Source: Shazeer 2017 (1701.06538), appendix B.
    """
    load_G = valid_rows(routing, chance_TG).sum(0)
    comes_TG = valid_rows(routing, comes_TG)
    share_TG = comes_TG * load_G / comes_TG.sum(0).clamp(min=1)
    return share_TG[..., None] * chance_TGe


def _choices(noisy_TG: Tensor, noisy_TGe: Tensor, groups: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The experts of each token, (T, k_groups k), and their weights, the largest first.

    Args:
        noisy_TG: logits of groups.
        noisy_TGe: logits of experts.
        groups: those that each token goes to, (T, k_groups).
        k: experts in each.
    """
    num_tokens, num_edges = len(groups), groups.shape[1] * k
    gate_N = noisy_TG.gather(-1, groups).softmax(-1).flatten()  # N edges token -> group
    token_N = torch.arange(num_tokens, device=groups.device).repeat_interleave(groups.shape[1])
    noisy_Ne = noisy_TGe[token_N, groups.flatten()]
    member_NK = best(noisy_Ne, k)
    weight_NK = gate_N[:, None] * noisy_Ne.gather(-1, member_NK).softmax(-1)
    expert_NK = groups.view(-1, 1) * noisy_TGe.shape[2] + member_NK
    weights, order = weight_NK.view(num_tokens, num_edges).sort(dim=-1, descending=True, stable=True)
    return expert_NK.view(num_tokens, num_edges).gather(-1, order), weights


def _check_groups(config: HierarchicalRouterConfig, num_experts: int) -> None:
    num_groups = config.num_groups
    rule, remedy = f"must divide the {num_experts} experts", "choose a divisor"
    check(num_experts % num_groups == 0, "num_groups", rule, num_groups, remedy)
    check(
        config.k_groups <= num_groups,
        "k_groups",
        f"must be at most the {num_groups} groups",
        config.k_groups,
        "lower it",
    )
    size = num_experts // num_groups
    check(
        config.k <= size, "k", f"must be at most the {size} experts of a group", config.k, "lower k or use fewer groups"
    )
