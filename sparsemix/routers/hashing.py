"""Hash layers: which experts a token goes to is a fixed function of its id."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from sparsemix.checks import check, check_dim
from sparsemix.config import config
from sparsemix.routers.base import KExperts, SelfBalanced, Stateless, valid_tokens, wide_dtype
from sparsemix.routers.select import check_k, token_choice
from sparsemix.routing import Routing, TokenInfo, needed


@config
class HashRouterConfig(KExperts, SelfBalanced):
    """Each token id has its k experts, once and for all."""

    type: Literal["hash"] = "hash"
    vocab_size: int = Field(ge=1)
    """Ids are below it."""
    k: int = Field(1, ge=1)
    """Experts a token."""
    table: Literal["random", "balanced"] = "random"
    """Experts by lot; or id by id, the most frequent first, to the experts with the least load so far."""
    frequencies: tuple[float, ...] | None = None
    """How often each id occurs, for the balanced table; none: all alike."""
    seed: int = 0
    """Of the random table."""

    causal = True

    @model_validator(mode="after")
    def _frequencies_fit(self) -> HashRouterConfig:
        if self.frequencies is None:
            return self
        balanced = self.table == "balanced"
        check(balanced, "frequencies", "are for the balanced table", f"table={self.table}", "use table='balanced'")
        seen, remedy = len(self.frequencies), "give one an id"
        check(seen == self.vocab_size, "frequencies", f"must be {self.vocab_size} numbers", seen, remedy)
        check(min(self.frequencies) >= 0, "frequencies", "must not be negative", min(self.frequencies))
        return self

    def build(self, dim: int, num_experts: int) -> HashRouter:
        """The router; it does not look at x."""
        return HashRouter(self, num_experts)


class HashRouter(Stateless, nn.Module):
    """experts = table[token id], each with weight 1 / k; no parameters, no logits.

    The host looks at the ids, lest one beyond the table be read as another: `torch.compile` breaks the graph there.

    Source: hash layers (2106.04426): the random and the balanced assignment.
    """

    def __init__(self, config: HashRouterConfig, num_experts: int) -> None:
        check_k(config.k, num_experts)
        super().__init__()
        self.config, self.causal, self.num_experts = config, config.causal, num_experts
        self.register_buffer("expert_VK", torch.empty(config.vocab_size, config.k, dtype=torch.int64))
        self.expert_VK: Tensor
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The table that the config describes."""
        config = self.config
        if config.table == "random":
            table_VK = random_table(config.vocab_size, config.k, self.num_experts, config.seed)
        else:
            table_VK = balanced_table(config.frequencies or (1.0,) * config.vocab_size, config.k, self.num_experts)
        self.expert_VK.copy_(table_VK)

    def forward(self, x_TD: Tensor, info: TokenInfo | None = None, previous: Routing | None = None) -> Routing:
        """K edges a token; `info.id_T` is needed."""
        id_T = needed(info, "id_T", "hash routing")
        check_dim("info.id_T", id_T, 0, len(x_TD))
        valid_T = valid_tokens(info, len(x_TD))
        id_T = id_T if valid_T is None else torch.where(valid_T, id_T, 0)  # padding may have any id
        if len(id_T):
            least, most = (int(end) for end in id_T.aminmax())
            seen = f"{least}..{most} with vocab_size={len(self.expert_VK)}"
            check(least >= 0 and most < len(self.expert_VK), "info.id_T", "must be in 0..vocab_size - 1", seen)
        expert_TK = self.expert_VK[id_T]
        weight_TK = torch.full(expert_TK.shape, 1 / self.config.k, dtype=wide_dtype(x_TD), device=x_TD.device)
        return token_choice(expert_TK, weight_TK, info)


def random_table(vocab_size: int, k: int, num_experts: int, seed: int) -> Tensor:
    """k different experts for each id, every choice as likely as any other; int64 (V, K)."""
    generator = torch.Generator().manual_seed(seed)
    expert_VK = torch.empty(vocab_size, 0, dtype=torch.int64, device="cpu")
    for last in range(num_experts - k, num_experts):  # Floyd's sampling without replacement
        drawn_V1 = torch.randint(last + 1, (vocab_size, 1), generator=generator, device="cpu")
        taken_V1 = (expert_VK == drawn_V1).any(-1, keepdim=True)
        expert_VK = torch.cat([expert_VK, torch.where(taken_V1, last, drawn_V1)], dim=-1)
    return expert_VK


def balanced_table(frequencies: Sequence[float], k: int, num_experts: int) -> Tensor:
    """Ids from the most frequent on, each to the k experts with the least frequency so far; int64 (V, K).

    Ties go to the lower id and the lower expert.
    """
    table = [[0] * k for _ in frequencies]
    loads = [(0.0, expert) for expert in range(num_experts)]
    for number in sorted(range(len(frequencies)), key=lambda number: -frequencies[number]):
        lightest = [heapq.heappop(loads) for _ in range(k)]
        table[number] = [expert for _, expert in lightest]
        for load, expert in lightest:
            heapq.heappush(loads, (load + frequencies[number], expert))
    return torch.tensor(table, device="cpu")
