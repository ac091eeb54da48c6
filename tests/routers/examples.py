"""Routers that the tests of routers share: with logits of size 1, or that choose what they are told to."""

import torch
from cases import gradients, numbers, same

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


def sized(router, seed: int = 0):
    """The router in float64, its parameters of size 1."""
    router = router.double()
    with torch.no_grad():
        for i, parameter in enumerate(router.parameters()):
            parameter.copy_(numbers(seed + i, *parameter.shape))
    return router


def same_routing(routing, edges, inputs) -> None:
    """The same live edges as the reference kept, the same choices, weights, and gradients of weights to the inputs."""
    ours, theirs = _ordered(routing.token_N, routing.expert_N), sorted(range(len(edges)), key=lambda n: edges[n][:2])
    pairs = [(int(t), int(e)) for t, e in zip(routing.token_N[ours], routing.expert_N[ours])]
    assert pairs == [edges[n][:2] for n in theirs]
    if routing.live_N is not None:
        assert routing.live_N[ours].tolist() == [edges[n].kept for n in theirs]
    if not edges:
        return
    weight_N, expected_N = routing.weight_N[ours], torch.stack([edges[n].weight for n in theirs])
    same(weight_N, expected_N, "weights")
    upstream_N = numbers(77, len(edges))
    for number, (ours, theirs) in enumerate(
        zip(gradients((weight_N * upstream_N).sum(), inputs), gradients((expected_N * upstream_N).sum(), inputs))
    ):
        same(ours, theirs, f"gradient of input {number}")


def _ordered(token_N, expert_N):
    return torch.argsort(token_N * (int(expert_N.max()) + 1 if len(expert_N) else 1) + expert_N)
