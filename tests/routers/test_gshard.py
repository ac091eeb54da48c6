"""GShard: the best expert, by chance the second; places by groups of tokens; weights summed before or after."""

import math

import pytest
import references
import torch
from cases import numbers, same
from hypothesis import given, settings
from hypothesis import strategies as st
from references.limited import always, gshard_policy, mesh_policy
from routers.examples import DIM, built, gradient, kept, live_edges, same_edges, told

from sparsemix import CapacityConfig, TokenInfo, balance_loss
from sparsemix.routers import GShardRouterConfig

POLICIES = {"all": always, "random": gshard_policy, "threshold": mesh_policy}


def places(factor: float, **fields) -> CapacityConfig:
    return CapacityConfig(factor=factor, factor_eval=factor, count_choices=False, **fields)


@settings(max_examples=50)
@given(
    st.integers(0, 7), st.integers(2, 5), st.sampled_from(list(POLICIES)), st.sampled_from(["before", "after"]),
    st.sampled_from([None, 0.1, 1.0]), st.booleans(), st.booleans(),
)  # fmt: skip
def test_edges_are_those_of_a_loop(num_tokens, num_experts, policy, normalize, factor, training, one_favourite):
    capacity = None if factor is None else places(factor)
    config = GShardRouterConfig(
        second=policy if training else "all",
        second_eval="all" if training else policy,
        normalize=normalize,
        capacity=capacity,
    )
    logits_TE = numbers(1, num_tokens, num_experts)
    if one_favourite:
        logits_TE[:, 0] = 3
    router, x_TD = told(config, logits_TE)
    torch.manual_seed(5)
    routing = router.train(training)(x_TD)
    torch.manual_seed(5)
    uniform_T = torch.rand(num_tokens, dtype=torch.float64)

    limit = num_tokens if capacity is None else capacity.places(num_tokens, 2, num_experts, capacity.factor)
    edges = references.limited.gshard(x_TD, limit, uniform_T, POLICIES[policy], normalize)
    same_edges(routing, edges, x_TD)
    assert routing.edges_per_token == 2
    assert routing.expert_N.view(-1, 2).equal(x_TD.topk(2, dim=-1).indices)  # choices stay, whoever is left out


@settings(max_examples=50)
@given(st.lists(st.booleans(), min_size=1, max_size=9), st.integers(1, 4))
def test_groups_of_tokens_do_not_see_each_other(valid, group_size):
    num_tokens = len(valid)
    config = GShardRouterConfig(second="all", capacity=places(0.5, group_size=group_size))
    router, x_TD = told(config, numbers(1, num_tokens, 3))
    routing = router(x_TD, TokenInfo(valid_T=torch.tensor(valid)))

    tokens = range(num_tokens)
    parts = [[t for t in tokens if t // group_size == g and valid[t]] for g in range(num_tokens // group_size + 1)]
    limit = config.capacity.places(min(group_size, num_tokens), 2, 3, 0.5)
    ones_T = torch.ones(num_tokens)
    edges = references.edges.apart(lambda rows: references.limited.gshard(x_TD[rows], limit, ones_T, always), parts)
    same_edges(routing, edges, x_TD)


def test_weights_of_a_token_that_loses_none_sum_to_one():
    config = GShardRouterConfig(second="all", capacity=None)
    routing = built(config, 5)(numbers(1, 20, DIM))
    same(routing.weight_N.view(20, 2).sum(-1), torch.ones(20).double())


@pytest.mark.parametrize(("normalize", "weight"), [("before", 0.75), ("after", 1.0)])
def test_a_token_that_loses_its_second_expert_keeps_less_in_all_unless_normalised_after(normalize, weight):
    """Token 0 fills expert 0, which is token 1's second choice; 3 : 1 are the chances of both."""
    logits_TE = torch.tensor([[9, 0, 1], [0, math.log(3), -99]], dtype=torch.float64)
    config = GShardRouterConfig(second="all", normalize=normalize, capacity=places(0.5))
    router, x_TD = told(config, logits_TE)
    found = live_edges(router(x_TD))
    assert (1, 0) not in found
    same(found[1, 1], torch.tensor(weight).double())


def test_four_tokens_for_one_expert_with_one_place_keep_the_first():
    config = GShardRouterConfig(second="all", capacity=places(0.5))
    router, x_TD = told(config, torch.tensor([[1.0, 0]]).expand(4, 2))
    assert [edge for edge in kept(router(x_TD)) if edge[1] == 0] == [(0, 0)]


def test_a_second_choice_never_takes_the_place_of_a_first():
    config = GShardRouterConfig(second="all", capacity=places(1.0))  # one place an expert
    router, x_TD = told(config, torch.tensor([[3.0, 2, 0], [0, 2, 3], [0, 3, 2]]))
    assert kept(router(x_TD)) == [(0, 0), (1, 2), (2, 1)]


@pytest.mark.parametrize(
    ("policy", "g2", "fraction"), [("random", 0.3, 0.6), ("threshold", 0.1, 0.5), ("threshold", 0.3, 1)]
)
def test_a_second_expert_is_kept_as_often_as_its_weight_says(policy, g2, fraction):
    logits_2 = torch.tensor([1 - g2, g2]).double().log()
    config = GShardRouterConfig(second=policy, second_eval=policy, capacity=None)
    router, x_TD = told(config, logits_2.expand(20_000, 2))
    for training in (True, False):
        second_T = router.train(training)(x_TD).live_N[1::2]
        assert abs(float(second_T.double().mean()) - fraction) < 0.015


def test_evaluation_keeps_every_second_expert_and_draws_nothing():
    router, x_TD = built(GShardRouterConfig(jitter=0.1, capacity=None), 4).eval(), numbers(1, 9, DIM)
    before = torch.get_rng_state()
    routing = router(x_TD)
    assert torch.get_rng_state().equal(before)
    assert routing.live_N is None
    same(routing.logits_TE, x_TD @ router.weight_ED.T)


def test_jitter_multiplies_the_input_in_training_and_keeps_its_mean():
    config = GShardRouterConfig(jitter=0.1, second="all", capacity=None)
    router, x_TD = told(config, torch.ones(5_000, 4))
    logits_TE = router(x_TD).logits_TE.detach()
    assert abs(float(logits_TE.mean()) - 1) < 0.002
    assert 0.9 <= float(logits_TE.min()) < 0.91
    assert 1.09 < float(logits_TE.max()) <= 1.1


@settings(max_examples=50)
@given(st.lists(st.booleans(), min_size=1, max_size=6))
def test_the_loss_counts_first_choices(valid):
    config = GShardRouterConfig()
    router = built(config, 4)
    routing = router(numbers(1, len(valid), DIM), TokenInfo(valid_T=torch.tensor(valid)))
    choices = routing.expert_N.view(-1, 2).tolist()
    expected = 0.01 * references.losses.first_choice_loss(routing.probs_TE, choices, valid)
    loss = balance_loss(routing, config.losses(4))
    same(loss, expected)
    same(gradient(loss, router.weight_ED), gradient(expected, router.weight_ED))


def test_one_expert_is_refused():
    with pytest.raises(ValueError, match=r"^k: must be in 1..num_experts, got k=2 with num_experts=1"):
        GShardRouterConfig().build(DIM, 1)
