"""Whatever the shape of a model and its router: where theory calls an edit exact, nothing changes."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from surgery.models import change, dense, sparse

from sparsemix import GLUExpertsConfig, MLPExpertsConfig, SelectionBiasConfig, TopKRouterConfig
from sparsemix.surgery import GrowConfig, SplitConfig, UpcycleConfig, grow, split, upcycle

FEW = settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def routers(draw: st.DrawFn, k: int) -> TopKRouterConfig:
    gate = draw(st.sampled_from(["softmax_topk", "topk_softmax", "sigmoid"]))
    normalize = draw(st.booleans()) if k > 1 else False
    if k == 1 and gate == "topk_softmax":
        gate = "sigmoid"
    bias = SelectionBiasConfig() if draw(st.booleans()) else None
    return TopKRouterConfig(k=k, gate=gate, normalize=normalize, bias=draw(st.booleans()), selection_bias=bias)


@st.composite
def kinds(draw: st.DrawFn):
    kind = draw(st.sampled_from([GLUExpertsConfig, MLPExpertsConfig]))
    activation = draw(st.sampled_from(["silu", "relu", "relu2", "gelu"]))
    return kind(hidden=12, activation=activation, bias=draw(st.booleans()))


@FEW
@given(st.data())
def test_split(data) -> None:
    router, shards = data.draw(routers(data.draw(st.integers(1, 3)))), data.draw(st.sampled_from([2, 3, 4]))
    model = sparse(router=router, kind=data.draw(kinds()))
    after = split(model, SplitConfig(num_shards=shards))
    assert after.theory.exact
    assert change(model, after) < 1e-10


@FEW
@given(st.data())
def test_grow(data) -> None:
    router = data.draw(routers(data.draw(st.integers(1, 3))))
    model = sparse(router=router, kind=data.draw(kinds()))
    begin = data.draw(st.sampled_from(["chosen", "dormant"])) if router.gate != "topk_softmax" else "chosen"
    k = None if begin == "dormant" else data.draw(st.integers(2, 2 * router.k))
    after = grow(model, GrowConfig(num_experts=8, k=k, begin=begin, router_noise=0))
    assert change(model, after) < 1e-10 or not after.theory.exact


@FEW
@given(st.data())
def test_upcycle(data) -> None:
    shards = data.draw(st.sampled_from([1, 2, 3]))
    router = data.draw(routers(data.draw(st.integers(2, 6))))
    model = dense(kind=data.draw(kinds()))
    scaling = data.draw(st.sampled_from(["output", "cube_root", "none"]))
    wanted = UpcycleConfig(num_experts=6, num_shards=shards, router=router, scaling=scaling, router_std=0.5)
    after = upcycle(model, wanted)
    assert change(model, after) < 1e-10 or not after.theory.exact
