"""The hierarchy of 2017: groups, and experts in groups; importance and load of both levels together."""

import math

import pytest
import references
import torch
from cases import numbers, same
from hypothesis import given, settings
from hypothesis import strategies as st
from references.noisy import NoisyLogits
from routers.examples import DIM, built, gradient, live_edges, same_edges

from sparsemix import TokenInfo, balance_loss, load
from sparsemix.balance import importance
from sparsemix.routers import HierarchicalRouterConfig


@st.composite
def hierarchies(draw: st.DrawFn) -> tuple[HierarchicalRouterConfig, int]:
    """A config and the size of its groups."""
    num_groups, size = draw(st.integers(2, 3)), draw(st.integers(2, 3))
    k_groups, k = draw(st.integers(2, num_groups)), draw(st.integers(2, size))
    return HierarchicalRouterConfig(num_groups=num_groups, k_groups=k_groups, k=k), size


def levels(router, x_TD: torch.Tensor, size: int, noisy: bool = True) -> tuple[NoisyLogits, NoisyLogits]:
    """What the reference is given: logits, raw deviations, and the draws of the seed 5."""
    torch.manual_seed(5)
    found = []
    for level in (router.groups, router.members):
        clean = x_TD @ level.weight_ED.T
        noise = torch.randn_like(clean) if noisy else torch.zeros_like(clean)
        found.append([clean, x_TD @ level.noise_ED.T, noise])
    return NoisyLogits(*found[0]), NoisyLogits(*(part.unflatten(-1, (-1, size)) for part in found[1]))


@settings(max_examples=40)
@given(st.lists(st.booleans(), max_size=4), hierarchies())
def test_edges_importance_and_load_are_those_of_a_loop(valid, hierarchy):
    (config, size), num_tokens = hierarchy, len(valid)
    num_groups, num_experts = config.num_groups, config.num_groups * size
    router, x_TD = built(config, num_experts), numbers(9, num_tokens, DIM).requires_grad_()
    torch.manual_seed(5)
    routing = router(x_TD, TokenInfo(valid_T=torch.tensor(valid, dtype=torch.bool)))
    primary, secondary = levels(router, x_TD, size)
    expected = references.noisy.hierarchical(primary, secondary, config.k_groups, config.k, config.noise_floor)

    same_edges(routing, [edge._replace(kept=valid[edge.token]) for edge in expected.edges], x_TD)
    if not any(valid):
        return
    loads = expected.primary_load_TG, expected.secondary_load_TGE
    load_GE = references.losses.hierarchical_load(*loads, expected.groups, valid)
    actual_E = routing.load_TE[torch.tensor(valid)].sum(0)
    same(actual_E, load_GE.view(num_experts), "load")
    same(gradient(actual_E, x_TD), gradient(load_GE.view(-1), x_TD), "gradient of the load")

    matrix_TE = references.edges.gate_matrix(expected.edges, num_tokens, num_experts)
    ones_TG = torch.ones(num_tokens, num_groups)
    products_TGE = matrix_TE.view(num_tokens, num_groups, size)
    importance_GE = references.losses.hierarchical_importance(ones_TG, products_TGE, valid)
    same(importance(routing, num_experts) * sum(valid), importance_GE.view(num_experts), "importance")

    loss = balance_loss(routing, config.losses(num_experts))
    cv_squared = references.cv_squared
    wanted = 0.1 * cv_squared(importance_GE.view(-1)) + 0.1 * cv_squared(load_GE.view(-1))
    same(loss, wanted, "loss")
    same(gradient(loss, x_TD), gradient(wanted, x_TD), "gradient of the loss")


@given(st.integers(0, 4), hierarchies())
def test_evaluation_has_no_noise_and_no_load(num_tokens, hierarchy):
    config, size = hierarchy
    router, x_TD = built(config, config.num_groups * size).eval(), numbers(9, num_tokens, DIM)
    routing = router(x_TD)
    primary, secondary = levels(router, x_TD, size, noisy=False)
    expected = references.noisy.hierarchical(primary, secondary, config.k_groups, config.k, config.noise_floor)
    same_edges(routing, expected.edges, router.members.weight_ED)
    assert routing.load_TE is None


def small(num_experts: int = 6, **fields):
    return built(HierarchicalRouterConfig(**{"num_groups": 3, **fields}), num_experts)


def test_weights_sum_to_one_and_come_largest_first():
    weight_TK = small()(numbers(9, 20, DIM)).weight_N.view(20, 4)
    same(weight_TK.sum(-1), torch.ones(20).double())
    assert (weight_TK.diff(dim=-1) <= 0).all()


def test_a_worked_example():
    """Groups 3 : 1 : 0, in group 0 experts 2 : 1, in group 1 experts 1 : 4."""
    router = HierarchicalRouterConfig(num_groups=3).build(1, 6).double().eval()
    with torch.no_grad():
        router.groups.weight_ED.copy_(torch.tensor([3, 1, 1e-9]).log()[:, None])
        router.members.weight_ED.copy_(torch.tensor([2.0, 1, 1, 4, 5, 5]).log()[:, None])
    found = live_edges(router(torch.ones(1, 1).double()))
    expected = {0: 3 / 4 * 2 / 3, 1: 3 / 4 * 1 / 3, 2: 1 / 4 * 1 / 5, 3: 1 / 4 * 4 / 5}
    assert found.keys() == {(0, e) for e in expected}
    for e, weight in expected.items():
        same(found[0, e].detach(), torch.tensor(weight).double(), tolerance=1e-6)


def test_the_distribution_is_the_product_of_both_levels():
    router, x_TD = small(), numbers(9, 5, DIM)
    routing = router(x_TD)
    groups_TG = (x_TD @ router.groups.weight_ED.T).softmax(-1)
    experts_TGe = (x_TD @ router.members.weight_ED.T).view(5, 3, 2).softmax(-1)
    same(routing.probs_TE, (groups_TG[..., None] * experts_TGe).flatten(1))
    same(routing.probs_TE.sum(-1), torch.ones(5).double())
    same(routing.logits_TE.logsumexp(-1), _both_levels(router, x_TD), "z-loss")


def _both_levels(router, x_TD: torch.Tensor) -> torch.Tensor:
    """ln sum_i e^(z_i) sum_j e^(z_ij)."""
    inner_TG = (x_TD @ router.members.weight_ED.T).view(len(x_TD), 3, 2).logsumexp(-1)
    return (x_TD @ router.groups.weight_ED.T + inner_TG).logsumexp(-1)


def test_the_load_of_a_group_is_the_load_of_its_experts_together_where_each_is_chosen_for_certain():
    """With k the size of a group, Load_i(X_i)_j is |X_i| for each j: the experts of group i have Load_p(X)_i each."""
    router, x_TD = small(k=2), numbers(9, 30, DIM)
    torch.manual_seed(5)
    load_GE = router(x_TD).load_TE.sum(0).view(3, 2)
    primary, secondary = levels(router, x_TD, 2)
    primary_load_TG = references.noisy.hierarchical(primary, secondary, 2, 2, 0.01).primary_load_TG
    same(load_GE, primary_load_TG.sum(0)[:, None].expand(3, 2))


def test_a_group_to_which_no_token_goes_has_no_load():
    router, x_TD = small(num_experts=9), numbers(9, 5, DIM).abs()
    with torch.no_grad():
        router.groups.weight_ED[1] = -50
    routing = router(x_TD)
    assert int(load(routing, 9)[3:6].sum()) == 0
    assert routing.load_TE[:, 3:6].eq(0).all()
    assert math.isfinite(balance_loss(routing, HierarchicalRouterConfig().losses(9)).item())


def test_both_levels_get_gradient_and_noise_begins_with_deviation_ln_2():
    config = HierarchicalRouterConfig(num_groups=3)
    router = config.build(DIM, 6)
    assert (router.groups.noise_ED == 0).all()
    assert (router.members.noise_ED == 0).all()
    routing = router(torch.randn(9, DIM))
    (routing.weight_N.square().sum() + balance_loss(routing, config.losses(6))).backward()
    assert all((parameter.grad != 0).any() for parameter in router.parameters())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_groups": 4}, r"^num_groups: must divide the 6 experts, got 4; choose a divisor"),
        ({"k_groups": 4}, r"^k_groups: must be at most the 3 groups, got 4; lower it"),
        ({"k": 3}, r"^k: must be at most the 2 experts of a group, got 3; lower k or use fewer groups"),
        ({"k": 1}, r"k: Input should be greater than or equal to 2, got 1"),
    ],
)
def test_impossible_hierarchies_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        HierarchicalRouterConfig(**{"num_groups": 3, **fields}).build(DIM, 6)
