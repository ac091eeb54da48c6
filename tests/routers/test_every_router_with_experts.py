"""Every router with every kind of expert, against a loop over its edges; and what the layer then computes."""

import pytest
import references
import torch
from cases import gradients, numbers, same
from routers.examples import DIM, EVERY_ROUTER, NUM_EXPERTS, lively, route
from torch import nn

from sparsemix import GLUExpertsConfig, MLPExpertsConfig, ModuleExperts, ModuleExpertsConfig, moe_forward


def glu(experts, e):
    own = experts.gate_up_EFD[e], experts.down_EDF[e]
    return lambda x_D: references.glu(x_D, *own, experts.config.activation)


def mlp(experts, e):
    own, biases = (experts.up_EFD[e], experts.down_EDF[e]), (experts.up_bias_EF[e], experts.down_bias_ED[e])
    return lambda x_D: references.mlp(x_D, *own, experts.config.activation, *biases)


def module(experts, e):
    return experts.experts[e]


def two_layers(dim: int) -> nn.Module:
    return nn.Sequential(nn.Linear(dim, 3), nn.Tanh(), nn.Linear(3, dim))


EVERY_KIND = {
    "GLU": (GLUExpertsConfig(hidden=3), glu),
    "MLP with biases": (MLPExpertsConfig(hidden=3, activation="gelu", bias=True), mlp),
    "modules": (ModuleExpertsConfig(make=two_layers), module),
}
"""A config, and expert e of what it builds as a function of one token."""

every_router = pytest.mark.parametrize("config", EVERY_ROUTER.values(), ids=EVERY_ROUTER)
in_both_modes = pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])


def live_edges(routing) -> list[tuple[int, int, torch.Tensor]]:
    live = [True] * len(routing.token_N) if routing.live_N is None else routing.live_N.tolist()
    edges = zip(routing.token_N.tolist(), routing.expert_N.tolist(), routing.weight_N, live)
    return [(t, e, weight) for t, e, weight, is_live in edges if is_live]


@every_router
@in_both_modes
@pytest.mark.parametrize(("kind", "function"), EVERY_KIND.values(), ids=EVERY_KIND)
def test_value_and_every_gradient_are_those_of_a_loop_over_edges(config, training, kind, function):
    router, experts = lively(config).train(training), kind.build(DIM, NUM_EXPERTS).double()
    with torch.no_grad():
        for i, parameter in enumerate(experts.parameters()):
            parameter.copy_(numbers(20 + i, *parameter.shape))
    x_TD, valid_T = numbers(1, 7, DIM).requires_grad_(), torch.arange(7) != 2
    routing = route(router, x_TD, valid_T)
    rows = [torch.zeros(DIM, dtype=torch.float64) for _ in x_TD]
    for t, e, weight in live_edges(routing):
        rows[t] = rows[t] + weight * function(experts, e)(x_TD[t])
    expected_TD = torch.stack(rows)

    y_TD, _ = moe_forward(x_TD, routing, experts)

    same(y_TD, expected_TD)
    names = ["x", *dict(router.named_parameters()), *dict(experts.named_parameters())]
    inputs, upstream_TD = [x_TD, *router.parameters(), *experts.parameters()], numbers(2, 7, DIM)
    pairs = zip(*(gradients((out_TD * upstream_TD).sum(), inputs) for out_TD in (y_TD, expected_TD)))
    for name, (grad, wanted) in zip(names, pairs):
        same(grad, wanted, f"gradient of {name}")


@every_router
@pytest.mark.parametrize("seed", range(3))
def test_a_lone_token_gets_the_same_where_nobody_wants_a_gradient(config, seed):
    """As in generation, where it takes a shorter way."""
    router, experts = lively(config).float().eval(), GLUExpertsConfig(hidden=3).build(DIM, NUM_EXPERTS)
    x_TD = numbers(seed, 1, DIM).float()
    expected_TD, _ = moe_forward(x_TD, route(router, x_TD), experts)
    with torch.no_grad():
        y_TD, _ = moe_forward(x_TD, route(router, x_TD), experts)
    same(y_TD, expected_TD.detach(), tolerance=1e-5)


class Counter(nn.Module):
    """The rows that reach an expert."""

    rows = 0

    def forward(self, x_ND: torch.Tensor) -> torch.Tensor:
        self.rows += len(x_ND)
        return x_ND


@every_router
@in_both_modes
def test_a_layer_computes_its_live_edges_and_no_more(config, training):
    counters = [Counter() for _ in range(NUM_EXPERTS)]
    x_TD, valid_T = numbers(1, 40, DIM), torch.arange(40) != 2
    routing = route(lively(config).train(training), x_TD, valid_T)
    moe_forward(x_TD, routing, ModuleExperts(counters))
    chosen = [e for _, e, _ in live_edges(routing)]
    assert [counter.rows for counter in counters] == [chosen.count(e) for e in range(NUM_EXPERTS)]


@pytest.mark.parametrize("name", ["top-p", "relu", "null", "MoE++", "dense, totals"])
def test_what_contributes_nothing_is_no_live_edge(name):
    router = lively(EVERY_ROUTER[name])
    total = router.statistic(route(router, 3 * numbers(2, 40, DIM)))
    if total is not None:
        router.update(total)  # closes the experts that had most
    routing = route(router, 3 * numbers(1, 40, DIM))
    edges = live_edges(routing)
    assert 0 < len(edges) < 40 * NUM_EXPERTS
    assert all(weight > 0 for _, _, weight in edges)
    if name in ("null", "MoE++"):
        assert len(edges) < len(routing.token_N)
