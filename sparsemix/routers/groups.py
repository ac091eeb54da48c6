"""For routers whose experts choose tokens: among which tokens, how many, and which."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsemix.routers.base import valid_tokens
from sparsemix.routing import TokenInfo


def whole_batch(x_TD: Tensor, info: TokenInfo | None) -> Tensor:
    """All valid tokens as one group, int64 (1, S)."""
    token_S = torch.arange(len(x_TD), device=x_TD.device)
    valid_T = valid_tokens(info, len(x_TD))
    return (token_S if valid_T is None else token_S[valid_T])[None]


def by_group(group_T: Tensor, grid_1S: Tensor) -> Tensor:
    """One group sorted into those that each token belongs to, any numbers; (G, S), T where there are no more tokens."""
    token_N = grid_1S[0]
    _, group_N, size_G = torch.unique(group_T[token_N], return_inverse=True, return_counts=True)
    group_N, order_N = group_N.sort(stable=True)
    place_N = torch.arange(len(group_N), device=group_N.device) - (size_G.cumsum(0) - size_G)[group_N]
    grid_GP = token_N.new_full((len(size_G), max([0, *size_G.tolist()])), len(group_T))
    grid_GP[group_N, place_N] = token_N[order_N]
    return grid_GP


def cut(grid_GS: Tensor, size: int, num_tokens: int) -> Tensor:
    """Each group cut up into runs of `size` tokens, of which the last may have fewer; (G', size)."""
    missing = -grid_GS.shape[1] % size
    run_NC = F.pad(grid_GS, (0, missing), value=num_tokens).view(-1, size)
    return run_NC[run_NC[:, 0] < num_tokens]


def in_groups(value_TE: Tensor, grid_GS: Tensor) -> Tensor:
    """The values of each group's tokens, (G, S, E); -inf where there is none."""
    return F.pad(value_TE, (0, 0, 0, 1), value=-torch.inf)[grid_GS]


def fair_share(grid_GS: Tensor, num_tokens: int, k: float, num_experts: int) -> Tensor:
    """Tokens that an expert takes of each group, k / E of them, rounded up; (G, 1)."""
    size_G1 = (grid_GS < num_tokens).sum(1, keepdim=True)
    return (size_G1.double() * k / num_experts).round(decimals=6).ceil().long()  # 1.1 * 100 is a hair above 110


@torch.no_grad()
def taken(scores_TE: Tensor, grid_GS: Tensor, room: Tensor) -> Tensor:
    """The tokens of each group that each expert takes, those with its largest scores; bool (T, E).

    Args:
        scores_TE: no NaN. Of equal scores the earlier token's counts more.
        grid_GS: of `by_group`; tokens that are not there are taken by nobody.
        room: how many each expert takes, as far as there are so many; (G, E), or 1 for either.
    """
    order_GSE = in_groups(scores_TE, grid_GS).argsort(dim=1, descending=True, stable=True)
    token_GSE = grid_GS[:, :, None].expand_as(order_GSE).gather(1, order_GSE)
    place_S1 = torch.arange(grid_GS.shape[1], device=grid_GS.device)[:, None]
    served_GSE = (place_S1 < room[:, None]).expand_as(token_GSE)
    num_tokens, num_experts = scores_TE.shape
    chosen = torch.zeros(num_tokens + 1, num_experts, dtype=torch.bool, device=scores_TE.device)
    chosen.scatter_(0, token_GSE.reshape(-1, num_experts), served_GSE.reshape(-1, num_experts))
    return chosen[:num_tokens]
