"""Routers that the tests of routers share: with logits of size 1, or that choose what they are told to."""

import torch
from cases import gradients, numbers, same

from sparsemix import Routing, TokenInfo, TopKRouter, TopKRouterConfig
from sparsemix.experts import (
    ConcatExpertsConfig,
    ConstantExpertsConfig,
    CopyExpertsConfig,
    GLUExpertsConfig,
    Part,
    ZeroExpertsConfig,
)
from sparsemix.routers import (
    BASERouterConfig,
    BatchwiseRouterConfig,
    CapacityConfig,
    CosineRouterConfig,
    DenseRouterConfig,
    ExpertChoiceRouterConfig,
    GroupLimitedRouterConfig,
    GShardRouterConfig,
    HashRouterConfig,
    HierarchicalRouterConfig,
    LIMoERouterConfig,
    MoEPPRouterConfig,
    NoisyTopKRouterConfig,
    NoTokenLeftBehindRouterConfig,
    NullRouterConfig,
    ReLURouterConfig,
    SelectionBiasConfig,
    SinkhornRouterConfig,
    SwitchRouterConfig,
    TokenRoundingRouterConfig,
    TokenSoftmaxConfig,
    TopPRouterConfig,
    VMoERouterConfig,
)

DIM = 6
NUM_EXPERTS = 8
EVERY_ROUTER = {
    "top-k": TopKRouterConfig(k=2),
    "top-k, logits first": TopKRouterConfig(k=3, gate="topk_softmax", bias=True),
    "top-k, selection bias": TopKRouterConfig(k=3, gate="sigmoid", selection_bias=SelectionBiasConfig()),
    "top-k, capacity": TopKRouterConfig(k=2, capacity=CapacityConfig(factor=0.6, factor_eval=0.6)),
    "top-k, all": TopKRouterConfig(k=NUM_EXPERTS),
    "noisy top-k": NoisyTopKRouterConfig(k=2),
    "switch": SwitchRouterConfig(),
    "switch, by probability": SwitchRouterConfig(capacity=CapacityConfig(factor=0.6, priority="probability")),
    "top-p": TopPRouterConfig(),
    "top-p, normalised": TopPRouterConfig(p=0.7, normalize=True, max_k=4),
    "relu": ReLURouterConfig(k=2, coefficient=0.1),
    "null": NullRouterConfig(k=4, num_null=3),
    "MoE++": MoEPPRouterConfig(),
    "MoE++, capacity": MoEPPRouterConfig(normalize=True, capacity=CapacityConfig(factor=0.6)),
    "cosine": CosineRouterConfig(k=2),
    "cosine, one side": CosineRouterConfig(normalize_input=False, temperature=0.5),
    "group-limited": GroupLimitedRouterConfig(k=3, num_groups=4, keep_groups=2),
    "group-limited, softmax": GroupLimitedRouterConfig(
        k=2, num_groups=4, keep_groups=2, gate="softmax_topk", group_score="best", normalize=False, selection_bias=None
    ),
    "GShard": GShardRouterConfig(capacity=CapacityConfig(factor=0.6, count_choices=False)),
    "GShard, dropless": GShardRouterConfig(capacity=None, normalize="after", jitter=0.01),
    "hierarchical": HierarchicalRouterConfig(num_groups=4),
    "LIMoE": LIMoERouterConfig(min_experts=(3.0, 2.0), local=(1,)),
    "no token left behind": NoTokenLeftBehindRouterConfig(
        k=3, capacity=CapacityConfig(factor=0.6, count_choices=False)
    ),
    "V-MoE": VMoERouterConfig(k=2, capacity=CapacityConfig(factor=0.6, priority="token")),
    "V-MoE, dropless": VMoERouterConfig(k=2, capacity=None),
    "expert choice": ExpertChoiceRouterConfig(capacity_factor=1.5),
    "expert choice, by sequence": ExpertChoiceRouterConfig(among="sequence"),
    "expert choice, softmax of tokens": ExpertChoiceRouterConfig(token_softmax=TokenSoftmaxConfig()),
    "BASE": BASERouterConfig(),
    "Sinkhorn": SinkhornRouterConfig(),
    "Sinkhorn, two": SinkhornRouterConfig(k=2),
    "batchwise": BatchwiseRouterConfig(k=2),
    "hash": HashRouterConfig(vocab_size=50, k=2),
    "token rounding": TokenRoundingRouterConfig(k=2, tile=4),
    "dense": DenseRouterConfig(),
    "dense, totals": DenseRouterConfig(hidden=16, margin=1.0),
}
"""Settings of every kind of router for 8 experts; each is put through what all routers must do."""


CHEAP = {"zero": ZeroExpertsConfig(), "copy": CopyExpertsConfig(), "constant": ConstantExpertsConfig()}


def experts_for(config, num_experts: int, hidden: int):
    """Gated units, and behind them what the router counts on."""
    last = getattr(config, "last_experts", ())
    first = Part(num_experts=num_experts - len(last), experts=GLUExpertsConfig(hidden=hidden))
    return ConcatExpertsConfig(parts=(first, *(Part(experts=CHEAP[kind]) for kind in last))) if last else first.experts


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


def kept(routing: Routing) -> list[tuple[int, int]]:
    """(token, expert) of the live edges, in their order."""
    return list(live_edges(routing))


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


def below(logits_TE: torch.Tensor) -> Routing:
    """A routing of the mixture below with these logits."""
    none_N = torch.zeros(0, dtype=torch.int64)
    return Routing(none_N, none_N, logits_TE.new_zeros(0), logits_TE=logits_TE)


def everything(num_tokens: int, valid_T: torch.Tensor | None = None) -> TokenInfo:
    """All that a router may want to know, of two sequences."""
    number_T = torch.arange(num_tokens)
    sequence_T = 2 * number_T // max(num_tokens, 1)
    return TokenInfo(
        valid_T=valid_T,
        id_T=5 * number_T % 7,
        sequence_T=sequence_T,
        position_T=number_T - (num_tokens + 1) // 2 * sequence_T,
        modality_T=number_T % 2,
    )


def route(router, x_TD: torch.Tensor, valid_T: torch.Tensor | None = None) -> Routing:
    """What it makes of these tokens, given all it may want, its noise always the same."""
    torch.manual_seed(0)
    return router(x_TD, everything(len(x_TD), valid_T), below(numbers(9, len(x_TD), NUM_EXPERTS).to(x_TD.dtype)))
