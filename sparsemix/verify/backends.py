"""Every back end that can serve the experts, forward and all gradients, against the loop in float64."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from sparsemix.experts.glu import GLUExperts
from sparsemix.experts.mlp import MLPExperts
from sparsemix.kernels import BackendName, ExpertWeights, choose_backend
from sparsemix.layer import MoE, moe_forward
from sparsemix.models import evaluating
from sparsemix.routing import Routing
from sparsemix.verify.expert_loop import experts_loop
from sparsemix.verify.finding import Comparison, Finding, does_not_apply
from sparsemix.verify.situations import Subject, Tokens, gradients, twin, upstream

BACKENDS: tuple[BackendName, ...] = ("reference", "cpu", "cpp", "native", "triton")


def check_backends(subject: Subject, names: Sequence[BackendName] = BACKENDS) -> Iterator[Finding]:
    """A row for each back end; for experts that no back end computes, one row of themselves."""
    stacked = [module for module in subject.moe.modules() if isinstance(module, GLUExperts | MLPExperts)]
    if not stacked:
        yield _compared(subject, "experts").finding("experts", subject.where, "loop in float64")
        return
    for name in names:
        refusal = next(filter(None, (_refusal(module, name) for module in stacked)), None)
        check = f"experts by {name}"
        if refusal is not None:
            yield does_not_apply(check, subject.where, refusal)
            continue
        with computed_by(stacked, name):
            yield _compared(subject, name).finding(check, subject.where, "loop in float64")


@contextmanager
def computed_by(stacked: Sequence[GLUExperts | MLPExperts], name: BackendName) -> Iterator[None]:
    """Inside the block these experts are computed by that back end."""
    before = [module.config for module in stacked]
    for module in stacked:
        module.config = cast(Any, dataclasses.replace(module.config, backend=name))
    try:
        yield
    finally:
        for module, config in zip(stacked, before):
            module.config = cast(Any, config)


def _refusal(module: GLUExperts | MLPExperts, name: BackendName) -> str | None:
    """Why the back end cannot serve these experts."""
    weights = ExpertWeights(*module.parameters())
    try:
        choose_backend(name, weights.up_EGD[0, :1], weights)
    except ValueError as error:
        return str(error).partition(", got ")[2].partition(";")[0]
    return None


def _compared(subject: Subject, name: str) -> Comparison:
    comparison = Comparison(subject.terms, torch.float32)
    double = twin(subject.moe)
    parameters = cast(nn.Module, double.experts).named_parameters()
    names = ["gradient of x", "gradient of weights", *(f"gradient of {one}" for one, _ in parameters)]
    for tokens, routing in _routed(subject):
        y, found = _with_gradients(subject.moe, tokens.x, routing)
        expected, wanted = _with_gradients(double, tokens.x.double(), routing, y.shape)
        comparison.add(tokens.name, [("output", y)], [expected])
        comparison.add(tokens.name, zip(names, found, strict=True), wanted)
    lone = subject.tokens(1, "one token without gradient")
    with torch.no_grad():
        routing = _route(subject.moe, lone)
        y, _ = moe_forward(lone.x, routing, subject.moe.experts)
        expected = experts_loop(double.experts, lone.x.double(), routing, routing.weight_N.double(), y.shape)
    comparison.add(lone.name, [("output", y)], [expected])
    return comparison


def _with_gradients(
    moe: MoE, x: Tensor, routing: Routing, out_shape: torch.Size | None = None
) -> tuple[Tensor, list[Tensor]]:
    """Output, and gradients of x, combine weights and parameters; by the loop where the shape of y is given."""
    x = x.detach().requires_grad_()
    weight_N = routing.weight_N.detach().to(x.dtype).requires_grad_()
    if out_shape is None:
        y, _ = moe_forward(x, routing._replace(weight_N=weight_N), moe.experts)
    else:
        y = experts_loop(moe.experts, x, routing, weight_N, out_shape)
    inputs = [x, weight_N, *cast(nn.Module, moe.experts).parameters()]
    return y.detach(), gradients((y * upstream(y)).sum(), inputs)


def _routed(subject: Subject) -> Iterator[tuple[Tokens, Routing]]:
    """The layer's routings, and what becomes of the first one where an expert is shunned, flooded or full."""
    for tokens in subject.situations():
        yield tokens, _route(subject.moe, tokens)
    plain = subject.tokens()
    routing = _route(subject.moe, plain)
    yield plain._replace(name="an expert without tokens"), _shunned(routing)
    yield plain._replace(name="all tokens to one expert"), _flooded(plain.x, subject.moe.router.num_experts - 1)
    live_N = torch.arange(len(routing.expert_N), device=plain.x.device) % 3 != 0
    yield plain._replace(name="dropped edges"), routing._replace(live_N=live_N)


def _shunned(routing: Routing) -> Routing:
    """Without the edges of the expert that has the most."""
    others_N = routing.expert_N != routing.expert_N.bincount(minlength=1).argmax()
    return Routing(routing.token_N[others_N], routing.expert_N[others_N], routing.weight_N[others_N])


def _flooded(x: Tensor, expert: int) -> Routing:
    """All tokens at one expert, with weights of their own."""
    token_N = torch.arange(len(x), device=x.device)
    weight_N = torch.linspace(0.1, 1, len(x), device=x.device)
    return Routing(token_N, torch.full_like(token_N, expert), weight_N, edges_per_token=1)


@torch.no_grad()
def _route(moe: MoE, tokens: Tokens) -> Routing:
    with evaluating(cast(nn.Module, moe.router)):
        return moe.router(tokens.x, tokens.info, tokens.previous)
