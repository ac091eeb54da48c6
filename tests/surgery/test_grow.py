"""More experts: copies that share the weight, copies that compete, and ones that sleep until they are let in."""

from __future__ import annotations

import pytest
import torch
from surgery.models import HIDDEN, built, change, check_theory, sparse

from sparsemix import (
    GroupLimitedRouterConfig,
    MLPExpertsConfig,
    SelectionBiasConfig,
    SwitchRouterConfig,
    TopKRouterConfig,
)
from sparsemix.surgery import GrowConfig, grow

WEIGHT = "blocks.1.ffn.router.weight_ED"
DOWN = "blocks.1.ffn.experts.down_EDF"


@pytest.mark.parametrize("gate", ["softmax_topk", "topk_softmax", "sigmoid"])
@pytest.mark.parametrize("copies", [2, 3])
def test_copies_that_are_all_chosen_share_the_weight(gate, copies) -> None:
    model = sparse(router=TopKRouterConfig(gate=gate), kind=MLPExpertsConfig(hidden=HIDDEN, bias=True))
    settings = GrowConfig(num_experts=4 * copies, k=2 * copies, router_noise=0)
    check_theory(model, grow(model, settings), exact=True)


@pytest.mark.parametrize(
    ("router", "settings"),
    [
        (TopKRouterConfig(), {"k": 2}),
        (TopKRouterConfig(), {"k": 4, "router_noise": 1.0}),
        (TopKRouterConfig(), {"k": 4, "router_noise": 0.0, "noise": 0.1}),
        (TopKRouterConfig(gate="sigmoid", normalize=False), {"k": 4, "router_noise": 0.0}),
        (TopKRouterConfig(selection_bias=SelectionBiasConfig()), {"k": 4, "router_noise": 0.0}),
    ],
)
def test_otherwise_the_function_is_another(router, settings) -> None:
    model = sparse(router=router)
    check_theory(model, grow(model, GrowConfig(num_experts=8, **settings)), exact=False)


@pytest.mark.parametrize(
    "router",
    [
        TopKRouterConfig(),
        TopKRouterConfig(gate="sigmoid"),
        TopKRouterConfig(gate="sigmoid", normalize=False, selection_bias=SelectionBiasConfig()),
        GroupLimitedRouterConfig(k=2, num_groups=2, keep_groups=1),
    ],
)
def test_dormant_experts_change_nothing(router) -> None:
    model = sparse(router=router)
    check_theory(model, grow(model, GrowConfig(num_experts=6, begin="dormant", noise=0.1)), exact=True)


@pytest.mark.parametrize(
    "router", [TopKRouterConfig(normalize=False), TopKRouterConfig(selection_bias=SelectionBiasConfig())]
)
def test_dormant_experts_weigh_on_probabilities(router) -> None:
    model = sparse(num_experts=8, router=router)
    check_theory(model, grow(model, GrowConfig(num_experts=16, begin="dormant")), exact=False)


def test_dormant_experts_outside_the_groups_kept_may_be_chosen_where_these_count_as_zero() -> None:
    router = GroupLimitedRouterConfig(k=2, num_groups=2, keep_groups=1, outside="zero")
    model = sparse(num_experts=6, router=router)
    for layer in (0, 1):
        model.tensors.read(f"blocks.{layer}.ffn.router.selection_bias.bias_E").sub_(2)
    assert not grow(model, GrowConfig(num_experts=8, begin="dormant")).theory.exact


def test_any_number_of_copies_shares_the_weight() -> None:
    """(1 / 49) * 49 is not 1 in floating point."""
    model = sparse(num_experts=2)
    check_theory(model, grow(model, GrowConfig(num_experts=98, k=98, router_noise=0)), exact=True)


def test_the_load_wakes_dormant_experts() -> None:
    """After enough steps against the load, their bias is back among the others'."""
    router = TopKRouterConfig(selection_bias=SelectionBiasConfig(rate=0.1))
    after = grow(sparse(router=router), GrowConfig(num_experts=5, begin="dormant"))
    decoder = built(after.model)
    router = decoder.blocks[0].ffn.router
    x = torch.randn(64, 8, dtype=torch.float64)
    assert 4 not in router(x).expert_N
    for _ in range(40):
        router.update(router.statistic(router(x)))
    assert 4 in router(x).expert_N


def test_new_experts_are_copies_in_turn_with_noise_of_their_own() -> None:
    model = sparse()
    after = grow(model, GrowConfig(num_experts=7, noise=0.1, router_noise=0.5)).model.tensors
    was, now = model.tensors.read(DOWN), after.read(DOWN)
    assert torch.equal(now[:4], was)
    off = (now[4:] - was[:3]).std(dim=(1, 2)) / was[:3].std(dim=(1, 2))
    assert ((off > 0.05) & (off < 0.2)).all()
    assert not torch.equal(after.read(WEIGHT)[4:], model.tensors.read(WEIGHT)[:3])


def test_groups_grow_each() -> None:
    model = sparse(router=GroupLimitedRouterConfig(k=2, num_groups=2, keep_groups=1))
    after = grow(model, GrowConfig(num_experts=6, router_noise=0)).model.tensors
    was = model.tensors.read(WEIGHT)
    assert torch.equal(after.read(WEIGHT), was[[0, 1, 0, 2, 3, 2]])


def test_as_many_experts_again_without_noise_are_chosen_in_pairs() -> None:
    model = sparse()
    assert change(model, grow(model, GrowConfig(num_experts=8, k=4, router_noise=0))) < 1e-12


@pytest.mark.parametrize(
    ("router", "settings", "complaint"),
    [
        (TopKRouterConfig(), {"num_experts": 4}, "num_experts: must be more"),
        (TopKRouterConfig(), {"num_experts": 8, "k": 9}, "k: must be in"),
        (TopKRouterConfig(gate="topk_softmax"), {"num_experts": 8, "begin": "dormant"}, "gate: must be a score"),
        (TopKRouterConfig(), {"num_experts": 8, "begin": "dormant", "k": 4}, "k: must stay"),
        (GroupLimitedRouterConfig(k=2, num_groups=2, keep_groups=1), {"num_experts": 5}, "num_experts: must be a mul"),
        (SwitchRouterConfig(capacity=None), {"num_experts": 8}, "router: must be topk"),
    ],
)
def test_refuses(router, settings, complaint) -> None:
    with pytest.raises((ValueError, TypeError), match=complaint):
        grow(sparse(router=router), GrowConfig(**settings))
