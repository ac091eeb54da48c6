"""Every router with every kind of expert, against a loop over its edges; and what the layer then computes."""

import pytest
import torch
from cases import gradients, numbers, same
from experts import test_kinds
from routers.examples import DIM, EVERY_ROUTER, NUM_EXPERTS, built, live_edges, route
from torch import nn

from sparsemix import (
    GLUExpertsConfig,
    MLPExpertsConfig,
    ModuleExperts,
    ModuleExpertsConfig,
    MoEConfig,
    TopKRouterConfig,
    moe_forward,
)
from sparsemix.experts import (
    ClampedGLUExpertsConfig,
    ConcatExpertsConfig,
    ConstantExpertsConfig,
    CopyExpertsConfig,
    Part,
    ZeroExpertsConfig,
)
from sparsemix.layer import MoEExpertsConfig


def two_layers(dim: int) -> nn.Module:
    return nn.Sequential(nn.Linear(dim, 3), nn.Tanh(), nn.Linear(3, dim))


GLU = GLUExpertsConfig(hidden=3)
OF_MOEPP = ConcatExpertsConfig(
    parts=(
        Part(num_experts=4, experts=GLU),
        Part(experts=ZeroExpertsConfig()),
        Part(experts=CopyExpertsConfig()),
        Part(num_experts=2, experts=ConstantExpertsConfig()),
    )
)
EVERY_KIND = {
    "GLU": GLU,
    "clamped GLU": ClampedGLUExpertsConfig(hidden=3, limit=0.8),
    "MLP with biases": MLPExpertsConfig(hidden=3, activation="gelu", bias=True),
    "modules": ModuleExpertsConfig(make=two_layers),
    "those of MoE++": OF_MOEPP,
    "mixtures": MoEExpertsConfig(moe=MoEConfig(num_experts=3, router=TopKRouterConfig(k=2), experts=GLU)),
}


def functions_of(config, experts):
    """Each expert as a function of one token."""
    match config.type:
        case "modules":
            return list(experts.experts)
        case "moe":
            return [lambda x_D, moe=moe: moe(x_D[None])[0][0] for moe in experts.experts]
        case "concat":
            return [f for part, own in zip(config.parts, experts.parts) for f in functions_of(part.experts, own)]
    return test_kinds.functions_of(config, experts)


every_router = pytest.mark.parametrize("config", EVERY_ROUTER.values(), ids=EVERY_ROUTER)
in_both_modes = pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])


@every_router
@in_both_modes
@pytest.mark.parametrize("kind", EVERY_KIND.values(), ids=EVERY_KIND)
def test_value_and_every_gradient_are_those_of_a_loop_over_edges(config, training, kind):
    router, experts = built(config, NUM_EXPERTS).train(training), kind.build(DIM, NUM_EXPERTS).double()
    with torch.no_grad():
        for i, parameter in enumerate(experts.parameters()):
            parameter.copy_(numbers(20 + i, *parameter.shape))
    x_TD, valid_T = numbers(1, 7, DIM).requires_grad_(), torch.arange(7) != 2
    routing = route(router, x_TD, valid_T)
    rows, functions = [torch.zeros(DIM, dtype=torch.float64) for _ in x_TD], functions_of(kind, experts)
    for (t, e), weight in live_edges(routing).items():
        rows[t] = rows[t] + weight * functions[e](x_TD[t])
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
    router, experts = built(config, NUM_EXPERTS).float().eval(), GLU.build(DIM, NUM_EXPERTS)
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
    routing = route(built(config, NUM_EXPERTS).train(training), x_TD, valid_T)
    moe_forward(x_TD, routing, ModuleExperts(counters))
    chosen = [e for _, e in live_edges(routing)]
    assert [counter.rows for counter in counters] == [chosen.count(e) for e in range(NUM_EXPERTS)]


@pytest.mark.parametrize("name", ["top-p", "relu", "null", "MoE++", "dense, totals"])
def test_what_contributes_nothing_is_no_live_edge(name):
    router = built(EVERY_ROUTER[name], NUM_EXPERTS)
    total = router.statistic(route(router, 3 * numbers(2, 40, DIM)))
    if total is not None:
        router.update(total)  # closes the experts that had most
    routing = route(router, 3 * numbers(1, 40, DIM))
    edges = live_edges(routing)
    assert 0 < len(edges) < 40 * NUM_EXPERTS
    assert all(weight > 0 for weight in edges.values())
    if name in ("null", "MoE++"):
        assert len(edges) < len(routing.token_N)
