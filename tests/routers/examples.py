"""Routers that the tests of routers share: with logits of size 1, or that choose what they are told to."""

import torch
from cases import numbers, same

from sparsemix import Routing, TopKRouter, TopKRouterConfig

DIM = 6


def built(config, num_experts: int, dim: int = DIM, seed: int = 0):
    """Any router, in float64, with matrices of numbers of size 1."""
    router = config.build(dim, num_experts).double()
    with torch.no_grad():
        for i, parameter in enumerate(router.parameters()):
            if parameter.ndim > 1:
                parameter.copy_(numbers(seed + i, *parameter.shape))
    return router


def told(config, logits_TE: torch.Tensor):
    """A linear router and an x for which its logits are these."""
    num_experts = logits_TE.shape[1]
    router = config.build(num_experts, num_experts).double()
    with torch.no_grad():
        router.weight_ED.copy_(torch.eye(num_experts))
    return router, logits_TE.double().clone().requires_grad_()


def live_edges(routing: Routing) -> dict[tuple[int, int], torch.Tensor]:
    """(token, expert) -> weight of the live edges."""
    live_N = torch.ones_like(routing.token_N, dtype=torch.bool) if routing.live_N is None else routing.live_N
    edges = zip(routing.token_N.tolist(), routing.expert_N.tolist(), routing.weight_N, live_N.tolist())
    return {(t, e): weight for t, e, weight, live in edges if live}


def gradient(value: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Of the value's sum with weights of its own; 0 where x has no part in it."""
    if not value.requires_grad:
        return torch.zeros_like(x)
    upstream = numbers(99, value.numel()).view_as(value)
    (found,) = torch.autograd.grad((value * upstream).sum(), x, retain_graph=True, allow_unused=True)
    return torch.zeros_like(x) if found is None else found


def same_edges(routing: Routing, expected: list, x: torch.Tensor) -> None:
    """Live edges, their weights and the gradient of these are those of a reference's kept edges."""
    wanted = {(t, e): weight for t, e, weight, kept in expected if kept}
    found = live_edges(routing)
    assert found.keys() == wanted.keys()
    if wanted:
        order = sorted(wanted)
        actual_N, wanted_N = (torch.stack([edges[key] for key in order]) for edges in (found, wanted))
        same(actual_N, wanted_N, "weights")
        same(gradient(actual_N, x), gradient(wanted_N, x), "gradient of the weights")


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
