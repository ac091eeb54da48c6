"""What each expert makes of tokens by itself, before any weight, and whether the router chose it or not."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sparsemix.experts import Experts
from sparsemix.routing import Routing, sort_by_expert

NUMBERS = 1 << 24
"""Numbers of outputs in memory at a time."""


def edge_outputs(experts: Experts, x_TD: Tensor, token_N: Tensor, expert_N: Tensor) -> Tensor:
    """f_e(x_t) of each edge (t, e), (N, D)."""
    row_N = torch.arange(len(token_N), device=token_N.device)
    alone = Routing(row_N, expert_N, torch.ones_like(x_TD[:1, 0]).expand(len(row_N)), edges_per_token=1)
    return experts(x_TD[token_N], sort_by_expert(alone, experts.num_experts))[0]


def edge_norms(experts: Experts, x_TD: Tensor, token_N: Tensor, expert_N: Tensor) -> Tensor:
    """||f_e(x_t)||_2 of each edge, (N,)."""
    size = max(1, NUMBERS // x_TD.shape[1])
    edges = zip(token_N.split(size), expert_N.split(size))
    return torch.cat([edge_outputs(experts, x_TD, *some).norm(dim=-1) for some in edges])


def all_outputs(experts: Experts, x_TD: Tensor) -> Iterator[Tensor]:
    """f_e(x_t) of every token and every expert, (T, E, D), some tokens at a time."""
    num_experts = experts.num_experts
    for rows_TD in x_TD.split(max(1, NUMBERS // (num_experts * x_TD.shape[1]))):
        token_N = torch.arange(len(rows_TD), device=x_TD.device).repeat_interleave(num_experts)
        expert_N = torch.arange(num_experts, device=x_TD.device).repeat(len(rows_TD))
        yield edge_outputs(experts, rows_TD, token_N, expert_N).unflatten(0, (-1, num_experts))


def output_products(experts: Experts, x_TD: Tensor) -> Tensor:
    """<f_i(x_t), f_j(x_t)> of every token and every two experts, (T, E, E)."""
    return torch.cat([y_TED @ y_TED.mT for y_TED in all_outputs(experts, x_TD)])
