"""Experts against their loops, value and every gradient; and what goes into both."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from cases import gradients, numbers, same
from experts import loops
from torch import Tensor, nn

from sparsemix import Routing, sort_by_expert


def filled(module: nn.Module) -> nn.Module:
    """In float64, and no parameter zero: biases begin at 0 and would hide."""
    module = module.double()
    with torch.no_grad():
        for i, parameter in enumerate(module.parameters()):
            parameter.copy_(numbers(i, *parameter.shape))
    return module


def live_edges(routing: Routing) -> list[tuple[int, int, Tensor]]:
    live = [True] * len(routing.expert_N) if routing.live_N is None else routing.live_N.tolist()
    edges = zip(routing.token_N.tolist(), routing.expert_N.tolist(), routing.weight_N)
    return [edge for edge, is_live in zip(edges, live) if is_live]


def assert_is_the_loop(
    experts: nn.Module, functions: Sequence[loops.Function], x: Tensor, routing: Routing, forward=None
) -> None:
    """Every parameter must be in the graph, also where no row is; x and the weights need not be."""
    x = x.clone().requires_grad_()
    expected = loops.weighted_sums(x, live_edges(routing), functions)
    y, _ = (forward or experts)(x, sort_by_expert(routing, experts.num_experts))
    same(y, expected)
    upstream, parameters = numbers(8, *y.shape), list(experts.parameters())
    if parameters:
        assert None not in torch.autograd.grad((y * upstream).sum(), parameters, retain_graph=True)
    inputs = [x, routing.weight_N, *parameters]
    names = ["x", "weights", *(name for name, _ in experts.named_parameters())]
    found, wanted = gradients((y * upstream).sum(), inputs), gradients((expected * upstream).sum(), inputs)
    for name, one, other in zip(names, found, wanted):
        same(one, other, f"gradient of {name}")
