"""Expert choice: each expert takes the tokens it likes best, all experts equally many."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from sparsemix.checks import check
from sparsemix.config import config
from sparsemix.routers.base import SelfBalanced, Stateless
from sparsemix.routers.groups import by_group, cut, fair_share, in_groups, taken, whole_batch
from sparsemix.routers.linear import LinearRouter
from sparsemix.routers.select import ragged_choice
from sparsemix.routing import Routing, TokenInfo, needed


@config
class TokenSoftmaxConfig:
    """Gates are a softmax over tokens, divided by the number of experts that take the token (Mesh TensorFlow)."""

    uniformity_weight: float = Field(0.01, ge=0)
    """Coefficient of the loss that asks that all tokens be wanted alike."""


@config
class ExpertChoiceRouterConfig(SelfBalanced):
    """Each expert takes its best c / E of the tokens; a token goes to c experts on average, perhaps to none."""

    type: Literal["expert_choice"] = "expert_choice"
    capacity_factor: float = Field(2.0, gt=0)
    """c, the experts of a token on average."""
    among: Literal["batch", "sequence"] = "batch"
    """What an expert takes its share of: the whole batch, or each sequence."""
    group_size: int | None = Field(None, ge=1)
    """Consecutive tokens of that which an expert takes a share of for themselves; none: all."""
    token_softmax: TokenSoftmaxConfig | None = None
    """A softmax over tokens; none: over experts, as in the paper."""

    causal = False  # whether an expert takes a token depends on later ones

    def edges_per_token(self, num_experts: int) -> float:
        """c."""
        return self.capacity_factor

    def build(self, dim: int, num_experts: int) -> ExpertChoiceRouter:
        """The router over x of width `dim`."""
        return ExpertChoiceRouter(self, dim, num_experts)


class ExpertChoiceRouter(Stateless, LinearRouter):
    """p = softmax(x W^T); each expert takes the n c / E of n tokens with its largest p, weighted by p.

    With `token_softmax`, g = softmax over tokens, weighted by g over the number of experts that take the token; its
    loss is n sum_t (mean_i g_ti)^2: 1 where all tokens are wanted alike, n where all experts want the same one.

    A share is rounded up to whole tokens. Edges are ragged: `torch.compile` breaks the graph there.

    Source: 2202.09368; the softmax over tokens is Mesh TensorFlow's expert selection.
    """

    def __init__(self, config: ExpertChoiceRouterConfig, dim: int, num_experts: int) -> None:
        seen, remedy = f"{config.capacity_factor} with num_experts={num_experts}", "lower it or add experts"
        check(config.capacity_factor <= num_experts, "capacity_factor", "must be at most num_experts", seen, remedy)
        super().__init__(dim, num_experts)
        self.config, self.causal = config, config.causal

    def forward(self, x_TD: Tensor, info: TokenInfo | None = None, previous: Routing | None = None) -> Routing:
        """An edge for each token that an expert takes, by token."""
        logits_TE = self.logits(x_TD)
        grid_GS = _groups(self.config, x_TD, info)
        room_G1 = fair_share(grid_GS, len(x_TD), self.config.capacity_factor, self.num_experts)
        if self.config.token_softmax is not None:
            return _over_tokens(logits_TE, grid_GS, room_G1, self.config.token_softmax.uniformity_weight, info)
        probs_TE = logits_TE.softmax(-1)
        chosen_TE = taken(probs_TE, grid_GS, room_G1)
        return ragged_choice(chosen_TE, probs_TE, info, logits_TE=logits_TE, probs_TE=probs_TE)


def _groups(config: ExpertChoiceRouterConfig, x_TD: Tensor, info: TokenInfo | None) -> Tensor:
    """The valid tokens by group, (G, S); T where a group has no more."""
    grid_GS = whole_batch(x_TD, info)
    if config.among == "sequence":
        grid_GS = by_group(needed(info, "sequence_T", "expert choice among a sequence's tokens"), grid_GS)
    return grid_GS if config.group_size is None else cut(grid_GS, config.group_size, len(x_TD))


def _over_tokens(
    logits_TE: Tensor, grid_GS: Tensor, room_G1: Tensor, uniformity_weight: float, info: TokenInfo | None
) -> Routing:
    gates_GSE = in_groups(logits_TE, grid_GS).softmax(1)
    num_tokens, num_experts = logits_TE.shape
    gates_TE = gates_GSE.new_zeros(num_tokens + 1, num_experts).index_put((grid_GS,), gates_GSE)[:num_tokens]
    chosen_TE = taken(logits_TE, grid_GS, room_G1)
    weight_TE = gates_TE / chosen_TE.sum(-1, keepdim=True).clamp(min=1)
    loss = uniformity_weight * _uniformity(gates_GSE, (grid_GS < num_tokens).sum(1))
    return ragged_choice(chosen_TE, weight_TE, info, logits_TE=logits_TE, loss=loss)


def _uniformity(gates_GSE: Tensor, size_G: Tensor) -> Tensor:
    """n sum_t (mean_i g_ti)^2 of each group, as a mean over tokens."""
    loss_G = size_G * gates_GSE.mean(-1).square().sum(-1)
    return (size_G * loss_G).sum() / size_G.sum().clamp(min=1)
