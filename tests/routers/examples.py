"""Routers that the tests of routers share: with logits of size 1, or that choose what they are told to."""

import torch
from cases import numbers

from sparsemix import TopKRouter, TopKRouterConfig

DIM = 6


def router_of(num_experts: int, seed: int = 0, **fields) -> TopKRouter:
    """In float64, with logits of size 1."""
    router = TopKRouterConfig(**fields).build(DIM, num_experts).double()
    with torch.no_grad():
        router.weight_ED.copy_(numbers(seed, num_experts, DIM))
    return router


def choosing(choices: list[list[int]], num_experts: int, **fields) -> tuple[TopKRouter, torch.Tensor]:
    """A router and inputs whose tokens choose the given experts, best first, with logits 3, 2, 1, ... and -3."""
    router = TopKRouterConfig(**{"k": len(choices[0]), **fields}).build(num_experts, num_experts).double()
    with torch.no_grad():
        router.weight_ED.copy_(torch.eye(num_experts))
    x_TD = torch.full((len(choices), num_experts), -3.0, dtype=torch.float64)
    for t, chosen in enumerate(choices):
        for j, e in enumerate(chosen):
            x_TD[t, e] = 3.0 - j
    return router, x_TD


def kept(routing, k: int) -> list[tuple[int, int]]:
    """(token, expert) of the live edges."""
    live_N = torch.ones_like(routing.token_N, dtype=torch.bool) if routing.live_N is None else routing.live_N
    return [(int(t), int(e)) for t, e, live in zip(routing.token_N, routing.expert_N, live_N) if live]
