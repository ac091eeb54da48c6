"""Experts side by side: against a loop, in both ways of running them, and a range of a dispatch."""

import pytest
import torch
from cases import dispatch_of, edge_lists, numbers, same
from experts.agreement import assert_is_the_loop, filled
from experts.test_kinds import CLAMPED, functions_of
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsemix import (
    GLUExpertsConfig,
    MLPExpertsConfig,
    ModuleExperts,
    MoE,
    MoEConfig,
    TokenInfo,
    TopKRouterConfig,
    sort_by_expert,
)
from sparsemix.experts import (
    ConcatExperts,
    ConcatExpertsConfig,
    ConstantExpertsConfig,
    CopyExpertsConfig,
    Part,
    ZeroExpertsConfig,
    part_of,
)

DIM = 3
KINDS = [
    GLUExpertsConfig(hidden=2),
    GLUExpertsConfig(hidden=5, backend="reference"),
    MLPExpertsConfig(hidden=4, bias=True),
    CLAMPED,
    ZeroExpertsConfig(),
    CopyExpertsConfig(),
    ConstantExpertsConfig(),
]


@st.composite
def split(draw: st.DrawFn, num_experts: int) -> list[int]:
    """Sizes of parts that are so many together."""
    sizes = []
    while sum(sizes) < num_experts:
        sizes.append(draw(st.integers(1, num_experts - sum(sizes))))
    return sizes


@settings(max_examples=150)
@given(edge_lists(), st.data(), st.sampled_from(["forward", "_by_sums"]))
def test_parts_of_any_kinds_are_a_loop_over_edges(case, data, way):
    """On a CPU `forward` gives each part its rows; `_by_sums` is what it does on a GPU and compiled."""
    routing, num_tokens, num_experts = case
    sizes = data.draw(split(num_experts))
    kinds = [data.draw(st.sampled_from(KINDS)) for _ in sizes]
    config = ConcatExpertsConfig(parts=tuple(Part(num_experts=n, experts=kind) for n, kind in zip(sizes, kinds)))
    experts = filled(config.build(DIM, num_experts))
    functions = [f for kind, part in zip(kinds, experts.parts) for f in functions_of(kind, part)]
    assert_is_the_loop(experts, functions, numbers(50, num_tokens, DIM), routing, getattr(experts, way))


@settings(max_examples=150)
@given(edge_lists(), st.data())
def test_a_lone_token_needs_no_sort_and_gets_the_same(case, data):
    routing, _, num_experts = case
    routing = routing._replace(token_N=torch.zeros_like(routing.token_N), edges_per_token=None)
    sizes = data.draw(split(num_experts))
    kinds = [data.draw(st.sampled_from(KINDS)) for _ in sizes]
    config = ConcatExpertsConfig(parts=tuple(Part(num_experts=n, experts=kind) for n, kind in zip(sizes, kinds)))
    experts, x_1D = filled(config.build(DIM, num_experts)), numbers(50, 1, DIM)
    with torch.no_grad():
        y_1D = experts.one_token(x_1D, routing)
        expected, _ = experts(x_1D, sort_by_expert(routing, num_experts))
    kind_of = [kind for n, kind in zip(sizes, kinds) for _ in range(n)]
    live = routing.expert_N if routing.live_N is None else routing.expert_N[routing.live_N]
    if len(live) and all(getattr(kind_of[e], "backend", "auto") == "auto" for e in live.tolist()):
        same(y_1D, expected)
    else:
        assert y_1D is None
    assert experts.one_token(x_1D, routing) is None  # with gradient


def test_parts_that_may_have_routings_inside_are_always_called():
    experts = ConcatExperts([CopyExpertsConfig().build(DIM, 1), ModuleExperts([torch.nn.Identity()])])
    moe = MoE(TopKRouterConfig(k=1, normalize=False).build(DIM, 2), experts)
    with torch.no_grad():
        assert experts.one_token(torch.randn(1, DIM), moe.router(torch.randn(1, DIM))) is None


@given(edge_lists(), st.data())
def test_a_range_of_experts_has_its_rows_first_and_the_others_dead(case, data):
    routing, _, num_experts = case
    start = data.draw(st.integers(0, num_experts))
    stop = data.draw(st.integers(start, num_experts))
    dispatch = sort_by_expert(routing, num_experts)
    first, last = dispatch.bounds[[start, stop]].tolist()

    part = part_of(dispatch, start, stop)

    own = list(range(first, last))
    order = own + [row for row in range(len(dispatch.token_N)) if row not in own]
    assert part.edge_N[: len(own)].equal(dispatch.edge_N[own])
    assert sorted(part.edge_N.tolist()) == sorted(dispatch.edge_N[order].tolist())
    assert part.token_N.equal(routing.token_N[part.edge_N])
    assert part.weight_N.equal(routing.weight_N[part.edge_N])
    assert part.bounds.dtype == dispatch.bounds.dtype
    assert part.bounds.tolist() == [int(bound) - first for bound in dispatch.bounds[start : stop + 1]]
    assert not part.all_live
    if dispatch.slot_TK is None:
        assert part.slot_TK is None
    else:
        assert part.edge_N[part.slot_TK].equal(dispatch.edge_N[dispatch.slot_TK])


def test_gradient_of_the_weights_passes_through_a_range():
    weight_N = numbers(0, 4).requires_grad_()
    dispatch = dispatch_of([0, 0, 1, 1], [0, 1, 1, 2], 3)._replace(weight_N=weight_N)
    part = part_of(dispatch, 1, 2)
    (part.weight_N * torch.arange(1.0, 5)).sum().backward()
    assert weight_N.grad.tolist() == [4, 1, 2, 3]


@pytest.mark.parametrize("way", ["forward", "_by_sums"])
@given(case=edge_lists())
def test_one_kind_cut_into_parts_is_the_whole(way, case):
    routing, num_tokens, num_experts = case
    dispatch, x_TD = sort_by_expert(routing, num_experts), numbers(50, num_tokens, DIM)
    whole = filled(GLUExpertsConfig(hidden=4).build(DIM, num_experts))
    parts = [GLUExpertsConfig(hidden=4).build(DIM, 1).double() for _ in range(num_experts)]
    with torch.no_grad():
        for expert, part in enumerate(parts):
            for parameter, stacked in zip(part.parameters(), whole.parameters()):
                parameter.copy_(stacked[expert : expert + 1])
    same(getattr(ConcatExperts(parts), way)(x_TD, dispatch)[0], whole(x_TD, dispatch)[0])


def test_widths_in_arithmetic_progression():
    parts = tuple(Part(experts=GLUExpertsConfig(hidden=hidden)) for hidden in range(4, 13, 4))
    experts = ConcatExpertsConfig(parts=parts).build(DIM, 3)
    assert [part.down_EDF.shape for part in experts.parts] == [(1, DIM, 4), (1, DIM, 8), (1, DIM, 12)]


def test_inner_routings_of_all_parts_are_returned_in_order():
    def mixture(num_experts):
        return MoEConfig(num_experts=num_experts, experts=GLUExpertsConfig(hidden=2)).build(DIM)

    parts = [ModuleExperts([mixture(2), mixture(3)]), CopyExpertsConfig().build(DIM, 1), ModuleExperts([mixture(4)])]
    experts = ConcatExperts(parts)
    dispatch = dispatch_of([0, 0, 1], [0, 1, 3], 4)
    for way in (experts, experts._by_sums):
        _, inner = way(torch.randn(2, DIM), dispatch)
        assert [routing.logits_TE.shape for routing in inner] == [(1, 2), (1, 3), (1, 4)]


def test_parts_must_be_as_many_experts_as_the_layer_has():
    config = ConcatExpertsConfig(parts=(Part(num_experts=2, experts=ZeroExpertsConfig()),))
    with pytest.raises(
        ValueError, match=r"^parts: must have num_experts=3 together, got 2; set num_experts=2, or change the parts$"
    ):
        MoEConfig(num_experts=3, experts=config).build(DIM)


@pytest.mark.usefixtures("compiler")
@pytest.mark.filterwarnings("ignore:.*Function'> should not be instantiated")  # PyTorch's own, of any it compiles
def test_a_layer_of_many_kinds_compiles_whole_and_is_what_it_was():
    config = ConcatExpertsConfig(parts=tuple(Part(experts=kind) for kind in (CLAMPED, ConstantExpertsConfig())))
    moe = MoEConfig(num_experts=len(config.parts), experts=config).build(DIM).double()
    info = TokenInfo(valid_T=torch.arange(9) % 4 != 3)
    results = []
    for run in (moe, torch.compile(moe, fullgraph=True, backend="aot_eager")):
        x_TD = numbers(0, 9, DIM).requires_grad_()
        y_TD, _ = run(x_TD, info=info)
        results.append([y_TD.detach(), *torch.autograd.grad(y_TD.square().sum(), [x_TD, *moe.parameters()])])
    for actual, expected in zip(*results):
        same(actual, expected)
