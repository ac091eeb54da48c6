"""V-MoE's router: noise before the softmax, weights as they are, a load of its own, and who is served first."""

import math

import pytest
import references
import torch
from cases import numbers, same
from hypothesis import given, settings
from hypothesis import strategies as st
from routers.examples import DIM, built, gradient, kept, same_edges, told

from sparsemix import CapacityConfig, TokenInfo, balance_loss
from sparsemix.balance import ImportanceLoss, LoadLoss
from sparsemix.routers import VMoERouterConfig
from sparsemix.routers.vmoe import reaching_probability


def dropless(**fields) -> VMoERouterConfig:
    return VMoERouterConfig(capacity=None, **fields)


@settings(max_examples=50)
@given(st.integers(0, 5), st.integers(1, 6), st.sampled_from([0.5, 1.0, 3.0]), st.booleans(), st.data())
def test_edges_and_load_are_those_of_a_loop(num_tokens, num_experts, noise_std, equal_tokens, data):
    k = data.draw(st.integers(1, num_experts))
    logits_TE = numbers(1, num_tokens, num_experts)
    if equal_tokens:
        logits_TE = logits_TE[:1].expand_as(logits_TE)
    router, x_TD = told(dropless(k=k, noise_std=noise_std), logits_TE)
    torch.manual_seed(5)
    routing = router(x_TD)
    torch.manual_seed(5)
    edges, load_TE = references.noisy.vmoe(x_TD, torch.randn_like(x_TD), k, noise_std)

    same_edges(routing, edges, x_TD)
    same(routing.load_TE, load_TE, "load")
    same(gradient(routing.load_TE, x_TD), gradient(load_TE, x_TD), "gradient of the load")
    same(routing.logits_TE, x_TD, "losses read the clean logits")
    same(routing.probs_TE, x_TD.softmax(-1), "losses read the clean distribution")


def test_evaluation_and_zero_noise_are_a_softmax_and_its_k_largest():
    x_TD = numbers(1, 7, DIM)
    for router in (built(dropless(), 5).eval(), built(dropless(noise_std=0.0), 5)):
        routing = router(x_TD)
        edges = references.token_choice.softmax_top_k(x_TD @ router.weight_ED.T, 2, normalize=False)
        same_edges(routing, edges, router.weight_ED)
        assert routing.load_TE is None


def test_chance_to_reach_the_threshold_counts_the_expert_itself():
    """Two experts, k = 1: with noisy logits .1 and .5 the threshold of both is .5; of 2017's, .5 and .1."""
    clean_12, noisy_12 = (torch.tensor([row], dtype=torch.float64) for row in ([0.3, -0.2], [0.1, 0.5]))
    phi = [(1 + math.erf(z / 0.7 / math.sqrt(2))) / 2 for z in (0.3 - 0.5, -0.2 - 0.5)]
    same(reaching_probability(clean_12, noisy_12, 0.7, 1), torch.tensor([phi], dtype=torch.float64))


@pytest.mark.parametrize("k", [1, 2, 5])
def test_load_is_how_often_an_expert_reaches_the_threshold_when_its_own_noise_is_drawn_again(k):
    clean_TE, std, draws = numbers(0, 1, 5), 0.7, 40_000
    noisy_TE = clean_TE + std * numbers(1, 1, 5)
    load_E = reaching_probability(clean_TE, noisy_TE, std, k)[0]
    threshold = noisy_TE[0].sort(descending=True).values[k - 1]
    for i in range(5):
        frequency = float((clean_TE[0, i] + std * numbers(2 + i, draws) >= threshold).double().mean())
        p = float(load_E[i])
        assert abs(frequency - p) <= 4 * math.sqrt(p * (1 - p) / draws) + 1e-4


@given(st.integers(1, 6), st.lists(st.booleans(), min_size=6, max_size=6))
def test_losses_are_those_of_the_clean_softmax_and_of_the_load_half_a_hundredth_each(num_tokens, valid):
    valid = valid[:num_tokens]
    if not any(valid):
        return
    config = dropless()
    router = built(config, 5)
    routing = router(numbers(1, num_tokens, DIM), TokenInfo(valid_T=torch.tensor(valid)))
    importance = references.losses.gate_importance_loss(routing.probs_TE, valid)
    load = references.losses.load_loss(routing.load_TE, valid)
    loss = balance_loss(routing, config.losses(5))
    same(loss, 0.005 * importance + 0.005 * load)
    same(gradient(loss, router.weight_ED), gradient(0.005 * importance + 0.005 * load, router.weight_ED))


def test_without_noise_there_is_no_load_to_balance():
    assert [type(loss) for loss in dropless().losses(4)] == [ImportanceLoss, LoadLoss]
    assert [type(loss) for loss in dropless(noise_std=0.0).losses(4)] == [ImportanceLoss]


def test_importance_in_parts_is_that_of_the_batch():
    loss, router = ImportanceLoss(form="probs"), built(dropless(), 4).eval()
    x_TD = numbers(1, 6, DIM)
    parts = [router(x_TD[:2]), router(x_TD[2:])]
    total = sum(loss.statistic(part) for part in parts)
    whole = loss(router(x_TD))
    mean = (2 * loss(parts[0], total) + 4 * loss(parts[1], total)) / 6
    same(mean, whole)
    same(gradient(mean, router.weight_ED), gradient(whole, router.weight_ED))


# --- capacity --------------------------------------------------------------------------------------------------------


@given(st.integers(1, 40), st.integers(2, 6), st.integers(1, 2), st.sampled_from(["position", "token"]))
def test_an_expert_takes_a_little_over_its_share_rounded_up_to_a_multiple_of_four(num_tokens, num_experts, k, priority):
    capacity = CapacityConfig(factor=1.05, factor_eval=1.05, multiple_of=4, priority=priority)
    router = built(VMoERouterConfig(k=k, capacity=capacity), num_experts).eval()
    x_TD = numbers(1, num_tokens, DIM)
    logits_TE = x_TD @ router.weight_ED.T
    edges = references.token_choice.softmax_top_k(logits_TE, k, normalize=False)
    order = references.capacity.by_batch_priority if priority == "token" else references.capacity.by_position
    limit = references.capacity.vmoe_capacity(num_tokens, k, num_experts, 1.05)
    same_edges(router(x_TD), references.capacity.first_come(order(edges), limit), router.weight_ED)


def batch_prioritised(factor: float) -> VMoERouterConfig:
    return VMoERouterConfig(k=1, capacity=CapacityConfig(factor=factor, factor_eval=factor, priority="token"))


def test_with_batch_priority_and_one_place_each_expert_keeps_the_token_with_its_largest_gate():
    router, x_TD = told(batch_prioritised(0.01), numbers(1, 30, 4))
    router.eval()
    best_TE = x_TD.softmax(-1).detach()
    chosen_T = best_TE.argmax(-1)
    for token, expert in kept(router(x_TD)):
        rivals_T = torch.where(chosen_T == expert, best_TE[:, expert], 0)
        assert token == int(rivals_T.argmax())


@pytest.mark.parametrize(("priority", "equivariant"), [("token", True), ("position", False)])
def test_the_order_of_tokens_makes_no_difference_with_batch_priority_and_does_without(priority, equivariant):
    capacity = CapacityConfig(factor=0.5, factor_eval=0.5, priority=priority)
    router = built(VMoERouterConfig(capacity=capacity), 4).eval()
    x_TD, order_T = numbers(1, 12, DIM), torch.randperm(12, generator=torch.Generator().manual_seed(0))
    live_T2 = router(x_TD).live_N.view(12, 2)
    assert live_T2[order_T].equal(router(x_TD[order_T]).live_N.view(12, 2)) == equivariant


def test_batch_priority_serves_all_first_choices_before_any_second():
    """One place an expert. Token 1 is the surest, yet its second choice does not take expert 0 from token 0."""
    capacity = CapacityConfig(factor=0.5, factor_eval=0.5, priority="token")
    router, x_TD = told(VMoERouterConfig(k=2, capacity=capacity), torch.tensor([[1.0, 0, -1], [8, 9, -1], [0, -1, 1]]))
    assert kept(router.eval()(x_TD)) == [(0, 0), (1, 1), (2, 2)]


def test_more_choices_than_experts_are_refused():
    with pytest.raises(ValueError, match=r"^k: must be in 1..num_experts, got k=4 with num_experts=2; lower k"):
        VMoERouterConfig(k=4).build(DIM, 2)
