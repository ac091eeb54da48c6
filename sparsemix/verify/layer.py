"""A whole mixture against its definition: which experts, with what weight, what comes out, and every gradient."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from sparsemix.layer import MoE
from sparsemix.models import evaluating
from sparsemix.routing import Routing
from sparsemix.verify.expert_loop import layer_loop
from sparsemix.verify.finding import Comparison, Finding, does_not_apply
from sparsemix.verify.gates import Gate, gate_of
from sparsemix.verify.situations import Subject, Tokens, gradients, inside, twin, upstream, wide


def check_router(subject: Subject) -> Finding:
    """In float64: the experts chosen are the best ones, and weights and probabilities those of the config's gate."""
    check, moe = "router", twin(subject.moe)
    comparison = Comparison(subject.terms, torch.float64)
    for tokens in map(wide, subject.situations()):
        gate = gate_of(moe.router, tokens.x, tokens.previous)
        if gate is None:
            reason = f"no closed form of the router {inside(moe.router).config.type} here; see derivatives"
            return does_not_apply(check, subject.where, reason)
        with evaluating(cast(nn.Module, moe.router)):
            routing = moe.router(tokens.x, tokens.info, tokens.previous)
        chosen_TE = _chosen(routing, gate)
        comparison.note(_shortfall(routing, gate, chosen_TE), f"choices, {tokens.name}")
        comparison.add(tokens.name, [("weights", routing.weight_N)], [_weights(gate, routing, chosen_TE)])
        if routing.probs_TE is not None:
            comparison.add(tokens.name, [("probabilities", routing.probs_TE)], [gate.probs_TE])
    return comparison.finding(check, subject.where, "closed form in float64")


def check_layer(subject: Subject) -> Finding:
    """As it is, in evaluation: choices, output, and gradients of x and of every parameter, the router's among them."""
    comparison = Comparison(subject.terms, torch.float32)
    double = twin(subject.moe)
    names = ["gradient of x", *(f"gradient of {name}" for name, _ in double.named_parameters())]
    with evaluating(subject.moe), evaluating(double):
        for tokens in subject.situations():
            actual, doubled = _actual(subject.moe, tokens), wide(tokens)
            gate = gate_of(double.router, doubled.x, doubled.previous)
            if gate is not None and not gate.in_groups:
                shortfall = _shortfall(actual.routing, gate, _chosen(actual.routing, gate))
                comparison.note(shortfall, f"choices, {tokens.name}")
            expected = _expected(double, doubled, actual, gate)
            comparison.add(tokens.name, [("output", actual.y)], [expected.y])
            comparison.add(tokens.name, zip(names, actual.gradients, strict=True), expected.gradients)
            with torch.no_grad():  # one token then takes the way of generation
                y, _ = subject.moe(tokens.x, info=tokens.info, previous=tokens.previous)
            comparison.add(f"{tokens.name} without gradient", [("output", y)], [expected.y])
    return comparison.finding("layer", subject.where, "loop in float64")


class _Pass(NamedTuple):
    y: Tensor
    gradients: list[Tensor]
    routing: Routing


def _actual(moe: MoE, tokens: Tokens) -> _Pass:
    x = tokens.x.detach().requires_grad_()
    y, routing = moe(x, info=tokens.info, previous=tokens.previous)
    return _Pass(y.detach(), gradients((y * upstream(y)).sum(), [x, *moe.parameters()]), routing)


def _expected(double: MoE, tokens: Tokens, actual: _Pass, gate: Gate | None) -> _Pass:
    """With the experts that the layer chose; weights by the gate's definition, or by the router in float64."""
    routing = actual.routing
    if gate is not None:
        weight_N = _weights(gate, routing, _chosen(routing, gate))
    else:
        weight_N = _matched(double.router(tokens.x, tokens.info, tokens.previous), routing)
    y = layer_loop(double, tokens.x, routing, weight_N, actual.y.shape)
    found = gradients((y * upstream(y)).sum(), [tokens.x, *double.parameters()])
    return _Pass(y.detach(), found, routing)


def _chosen(routing: Routing, gate: Gate) -> Tensor:
    """bool (T, E)."""
    chosen_TE = torch.zeros_like(gate.preference_TE, dtype=torch.bool)
    return chosen_TE.index_put((routing.token_N, routing.expert_N), torch.ones_like(routing.token_N, dtype=torch.bool))


def _weights(gate: Gate, routing: Routing, chosen_TE: Tensor) -> Tensor:
    return gate.weights(chosen_TE)[routing.token_N, routing.expert_N]


def _shortfall(routing: Routing, gate: Gate, chosen_TE: Tensor) -> float:
    """By how much the chosen experts are worse than the k best, relative to the largest score if that is above 1.

    Infinite where they are not k; ties are free.

    Also infinite where experts that count are not computed: none of the edges of padding lives, and of others, without
    a capacity, exactly those of experts that count.
    """
    if not len(chosen_TE):
        return 0.0
    best_TK = gate.preference_TE.topk(gate.k, dim=-1).values
    if not bool((chosen_TE.sum(-1) == gate.k).all()) or len(routing.expert_N) != best_TK.numel():
        return float("inf")
    own_TK = gate.preference_TE.masked_fill(~chosen_TE, -torch.inf).topk(gate.k, dim=-1).values
    largest = max(gate.preference_TE.nan_to_num(0, 0, 0).abs().max().item(), 1.0)
    return (best_TK - own_TK).abs().max().item() / largest if _right_edges_live(routing, gate) else float("inf")


def _right_edges_live(routing: Routing, gate: Gate) -> bool:
    valid_T = None if routing.info is None else routing.info.valid_T
    counted_N = gate.counted_E[routing.expert_N]
    wanted_N = counted_N if valid_T is None else counted_N & valid_T[routing.token_N]
    live_N = torch.ones_like(wanted_N) if routing.live_N is None else routing.live_N
    if gate.may_drop:
        return not bool((live_N & ~wanted_N).any())
    return bool((live_N == wanted_N).all())


def _matched(routing: Routing, wanted: Routing) -> Tensor:
    """The weights of these edges in another routing of the same tokens; NaN where it has not such an edge."""
    own = zip(routing.token_N.tolist(), routing.expert_N.tolist())
    places: dict[Any, int] = {edge: n for n, edge in enumerate(own)}
    edges = zip(wanted.token_N.tolist(), wanted.expert_N.tolist())
    index_N = torch.tensor([places.get(edge, -1) for edge in edges], dtype=torch.int64, device=routing.token_N.device)
    if not len(routing.weight_N):
        return routing.weight_N.new_full((len(index_N),), torch.nan)
    return torch.where(index_N >= 0, routing.weight_N[index_N.clamp(min=0)], torch.nan)
