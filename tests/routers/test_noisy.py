"""Noisy top-k gating: the formulas of 2017, noise in training only, and losses that read what there was before it."""

import math

import pytest
import torch
from cases import numbers, same
from hypothesis import given, settings
from hypothesis import strategies as st
from references import losses, noisy
from references.edges import choices_of
from references.gates import softmax
from routers.examples import DIM, same_edges, sized

from sparsemix import CapacityConfig, ImportanceLoss, LoadLoss, TokenInfo, balance_loss, load
from sparsemix.routers import NoisyTopKRouterConfig

SEED = 5


def router_of(num_experts: int, **fields):
    return sized(NoisyTopKRouterConfig(**fields).build(DIM, num_experts))


def routed(router, x_TD, info=None):
    """Its routing, and the noise that it drew."""
    torch.manual_seed(SEED)
    routing = router(x_TD, info)
    torch.manual_seed(SEED)
    return routing, torch.randn(len(x_TD), router.num_experts, dtype=torch.float64)


def raw_of(router, x_TD):
    """Logits without noise, and what the softplus is taken of."""
    return x_TD @ router.weight_ED.T, x_TD @ router.noise_ED.T


@settings(max_examples=50)
@given(st.integers(0, 5), st.integers(2, 7), st.sampled_from([0.0, 1e-2]), st.data())
def test_choices_weights_and_chances_are_those_of_the_paper_with_their_gradients(num_tokens, num_experts, floor, data):
    k = data.draw(st.integers(2, num_experts))
    router, x_TD = router_of(num_experts, k=k, noise_floor=floor), numbers(9, num_tokens, DIM)
    inputs = [x_TD.requires_grad_(), router.weight_ED, router.noise_ED]
    routing, noise_TE = routed(router, x_TD)
    clean_TE, raw_TE = raw_of(router, x_TD)
    edges, load_TE = noisy.noisy_top_k(clean_TE, raw_TE, noise_TE, k, floor)

    assert routing.expert_N.tolist() == [edge.expert for edge in edges]
    assert routing.edges_per_token == k
    same(routing.logits_TE, clean_TE, "losses read the clean logits")
    same(routing.load_TE, load_TE.reshape(num_tokens, num_experts), "chances")
    for t in range(num_tokens):
        same(routing.probs_TE[t], softmax(clean_TE[t]), "losses read the clean distribution")
    for tensor in inputs:
        same_edges(routing, edges, tensor)
    if num_tokens and k < num_experts:
        upstream_TE = numbers(8, num_tokens, num_experts)
        got = torch.autograd.grad((routing.load_TE * upstream_TE).sum(), inputs, retain_graph=True)
        for one, other in zip(got, torch.autograd.grad((load_TE * upstream_TE).sum(), inputs)):
            same(one, other, "gradient of the chances")


@settings(max_examples=50)
@given(st.integers(1, 6), st.integers(3, 6), st.data())
def test_its_losses_are_those_of_the_paper(num_tokens, num_experts, data):
    k = data.draw(st.integers(2, num_experts - 1))
    valid = data.draw(st.lists(st.booleans(), min_size=num_tokens, max_size=num_tokens).filter(any))
    router, x_TD = router_of(num_experts, k=k), numbers(9, num_tokens, DIM)
    routing, noise_TE = routed(router, x_TD, TokenInfo(valid_T=torch.tensor(valid)))
    edges, load_TE = noisy.noisy_top_k(*raw_of(router, x_TD), noise_TE, k, 1e-2)
    weights = [[edge.weight for edge in edges[t * k : (t + 1) * k]] for t in range(num_tokens)]
    importance = losses.importance_loss(choices_of(edges, num_tokens), weights, num_experts, valid)
    expected = 0.1 * importance + 0.1 * losses.load_loss(load_TE, valid)
    actual = balance_loss(routing, router.config.losses(num_experts))
    same(actual, expected)
    for one, other in zip(*(torch.autograd.grad(loss, [*router.parameters()]) for loss in (actual, expected))):
        same(one, other, "gradient")


def test_a_worked_vector():
    """Without noise: logits (1, ln 2, -1) and k = 2 give weights e / (e + 2) and 2 / (e + 2)."""
    router = NoisyTopKRouterConfig(k=2).build(3, 3).double().eval()
    torch.nn.init.eye_(router.weight_ED)
    routing = router(torch.tensor([[1.0, math.log(2), -1.0]], dtype=torch.float64))
    assert routing.expert_N.tolist() == [0, 1]
    same(routing.weight_N, torch.tensor([math.e, 2.0], dtype=torch.float64) / (math.e + 2))


# --- training and evaluation -----------------------------------------------------------------------------------------


def test_noise_acts_in_training_only():
    router, x_TD = router_of(4, k=2), numbers(1, 9, DIM)
    assert not router(x_TD).weight_N.equal(router(x_TD).weight_N)
    quiet = router.eval()(x_TD)
    clean_TE, _ = raw_of(router, x_TD)
    chosen_T2 = clean_TE.topk(2).indices
    assert quiet.expert_N.equal(chosen_T2.flatten())
    same(quiet.weight_N, clean_TE.gather(1, chosen_T2).softmax(-1).flatten())
    assert quiet.load_TE is None
    assert quiet.logits_TE.equal(router.train()(x_TD).logits_TE)


def test_the_same_seed_draws_the_same_noise():
    router, x_TD = router_of(4, k=2), numbers(1, 9, DIM)
    first, second = routed(router, x_TD)[0], routed(router, x_TD)[0]
    assert first.expert_N.equal(second.expert_N)
    assert first.weight_N.equal(second.weight_N)


def test_noise_begins_with_deviation_ln_2_and_reaches_its_weights_by_gradient():
    router = NoisyTopKRouterConfig(k=2).build(DIM, 4)
    assert (router.noise_ED == 0).all()
    routing = router(torch.randn(9, DIM))
    (routing.weight_N.square().sum() + routing.load_TE.square().sum()).backward()
    assert (router.noise_ED.grad != 0).any()


def test_noise_that_has_vanished_leaves_every_gradient_finite():
    router, x_TD = NoisyTopKRouterConfig(k=2, noise_floor=0.0).build(DIM, 4), torch.ones(9, DIM).requires_grad_()
    with torch.no_grad():
        router.noise_ED.copy_(torch.tensor([-300.0, -60.0, -1.0, 0.0])[:, None].expand(4, DIM))
    routing = router(x_TD)
    (routing.weight_N.square().sum() + routing.load_TE.square().sum()).backward()
    for gradient in (x_TD.grad, *(parameter.grad for parameter in router.parameters())):
        assert gradient.isfinite().all()


def test_a_router_of_zeros_sends_every_token_to_the_same_experts_unless_there_is_noise():
    router = NoisyTopKRouterConfig(k=2).build(DIM, 8)
    torch.nn.init.zeros_(router.weight_ED)
    x_TD = torch.randn(400, DIM)
    assert int(load(router(x_TD), 8).max()) < 200
    assert int(load(router.eval()(x_TD), 8).max()) == 400


# --- what it says of itself ------------------------------------------------------------------------------------------


def test_what_it_declares():
    config = NoisyTopKRouterConfig(k=2)
    assert (config.causal, config.balances_itself, config.edges_per_token(8)) == (True, False, 2)
    assert config.losses(8) == (ImportanceLoss(weight=0.1), LoadLoss(weight=0.1))
    assert not NoisyTopKRouterConfig(k=2, capacity=CapacityConfig()).causal


def test_a_capacity_drops_noisy_choices():
    router, x_TD = router_of(4, k=2, capacity=CapacityConfig(factor=0.5, factor_eval=None)), numbers(1, 8, DIM)
    routing, _ = routed(router, x_TD)
    live_E = torch.bincount(routing.expert_N[routing.live_N], minlength=4)
    assert int(live_E.max()) == 2
    assert router.eval()(x_TD).live_N is None


def test_one_choice_and_more_than_there_are_experts_are_refused():
    with pytest.raises(ValueError, match=r"^NoisyTopKRouterConfig: k: Input should be greater than or eq"):
        NoisyTopKRouterConfig(k=1)
    with pytest.raises(ValueError, match=r"^k: must be in 1..num_experts, got k=4 with num_experts=2; lower k"):
        NoisyTopKRouterConfig(k=4).build(DIM, 2)
