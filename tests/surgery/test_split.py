"""Experts split into shards compute together what they did, whichever gate weighs them."""

from __future__ import annotations

import pytest
from surgery.models import HIDDEN, built, check_theory, dense, kind_of, sparse, stored

from sparsemix import (
    CapacityConfig,
    ClampedGLUExpertsConfig,
    ConcatExpertsConfig,
    CopyExpertsConfig,
    GLUExpertsConfig,
    GroupLimitedRouterConfig,
    MLPExpertsConfig,
    MoEConfig,
    Part,
    ReLURouterConfig,
    SelectionBiasConfig,
    SwitchRouterConfig,
    TopKRouterConfig,
)
from sparsemix.surgery import SplitConfig, split

KINDS = [
    GLUExpertsConfig(hidden=HIDDEN),
    ClampedGLUExpertsConfig(hidden=HIDDEN),
    MLPExpertsConfig(hidden=HIDDEN, activation="gelu", bias=True),
]
BIASED = SelectionBiasConfig()
SEQUENCES = MoEConfig(num_experts=4, experts=CopyExpertsConfig(), item_dims=2)
EXACT = [
    *(TopKRouterConfig(gate=gate) for gate in ("softmax_topk", "topk_softmax", "sigmoid")),
    *(TopKRouterConfig(gate=gate, normalize=False) for gate in ("softmax_topk", "sigmoid")),
    TopKRouterConfig(gate="topk_softmax", bias=True),
    *(TopKRouterConfig(gate=gate, selection_bias=BIASED) for gate in ("softmax_topk", "topk_softmax", "sigmoid")),
    TopKRouterConfig(selection_bias=SelectionBiasConfig(form="multiplicative")),
    GroupLimitedRouterConfig(k=2, num_groups=2, keep_groups=1, gate="softmax_topk", group_score="best"),
    GroupLimitedRouterConfig(k=2, num_groups=2, keep_groups=2),
    GroupLimitedRouterConfig(k=2, num_groups=4, keep_groups=3, normalize=False),
    ReLURouterConfig(),
]


@pytest.mark.parametrize("kind", KINDS, ids=kind_of)
@pytest.mark.parametrize("shards", [2, 3])
def test_any_experts_can_be_split(kind, shards) -> None:
    model = sparse(kind=kind)
    after = split(model, SplitConfig(num_shards=shards))
    assert after.model.config.moe.num_experts == 4 * shards
    assert after.model.config.moe.experts.hidden == HIDDEN // shards
    check_theory(model, after, exact=True)


@pytest.mark.parametrize("kind", [KINDS[0], KINDS[2]], ids=kind_of)
@pytest.mark.parametrize("router", EXACT, ids=kind_of)
def test_split_under_any_gate(router, kind) -> None:
    model = sparse(router=router, kind=kind)
    check_theory(model, split(model, SplitConfig(num_shards=3)), exact=True)


def test_groups_that_compete_by_their_two_best_are_not_the_same_after_it() -> None:
    model = sparse(num_experts=8, router=GroupLimitedRouterConfig(k=2, num_groups=4, keep_groups=1))
    check_theory(model, split(model, SplitConfig()), exact=False)


def test_a_capacity_casts_doubt() -> None:
    capacity = CapacityConfig(factor_eval=1.0)
    assert not split(sparse(router=TopKRouterConfig(capacity=capacity), allow_leak=True), SplitConfig()).theory.exact


def test_each_tensor_is_read_once() -> None:
    model = sparse(router=EXACT[5])
    built(split(model, SplitConfig()).model)
    assert set(model.tensors.reads.values()) == {1}


def test_dense_blocks_and_shared_experts_stay() -> None:
    model = sparse(num_layers=3, moe_every=2, ffn=KINDS[0])
    check_theory(model, split(model, SplitConfig()), exact=True)


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        (lambda: dense(), "model: must have a mixture"),
        (lambda: sparse(kind=GLUExpertsConfig(hidden=9)), "num_shards: must divide"),
        (lambda: sparse(router=SwitchRouterConfig(capacity=None)), "router: must be topk"),
        (lambda: stored(allow_leak=True, moe=SEQUENCES), "item_dims: must be 1"),
        (lambda: sparse(kind=ConcatExpertsConfig(parts=(Part(num_experts=4, experts=KINDS[0]),))), "experts: must be"),
    ],
)
def test_refuses(model, complaint) -> None:
    with pytest.raises((ValueError, TypeError), match=complaint):
        split(model(), SplitConfig())
