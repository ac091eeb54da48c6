"""X-MoE's router: cosines over a learned temperature."""

import pytest
import references
import torch
from cases import GATES, numbers, same
from hypothesis import given
from hypothesis import strategies as st
from routers.examples import DIM, built, gradient, same_edges

from sparsemix import balance_loss
from sparsemix.routers import CosineRouterConfig


def logits(router, x_TD: torch.Tensor, normalize_input: bool = True) -> torch.Tensor:
    return references.token_choice.cosine_logits(
        x_TD, router.project_AD, router.expert_EA, router.temperature, normalize_input
    ).view(len(x_TD), router.num_experts)


@given(st.integers(1, 4), st.integers(1, 6), st.booleans(), st.none() | st.integers(1, 5))
def test_logits_are_cosines_over_the_temperature(num_tokens, num_experts, normalize_input, projection):
    config = CosineRouterConfig(normalize_input=normalize_input, projection=projection)
    router, x_TD = built(config, num_experts), numbers(7, num_tokens, DIM).requires_grad_()
    actual_TE, expected_TE = router(x_TD).logits_TE, logits(router, x_TD, normalize_input)
    same(actual_TE, expected_TE)
    for tensor in (x_TD, *router.parameters()):
        same(gradient(actual_TE, tensor), gradient(expected_TE, tensor), "gradient")


@given(st.integers(0, 5), st.integers(1, 6), st.sampled_from(GATES), st.booleans(), st.data())
def test_edges_are_the_best_k_with_the_weights_of_the_gate(num_tokens, num_experts, gate, normalize, data):
    least = 2 if normalize or gate == "topk_softmax" else 1
    if num_experts < least:
        return
    k = data.draw(st.integers(least, num_experts))
    config = CosineRouterConfig(k=k, gate=gate, normalize=normalize, temperature=0.5)
    router, x_TD = built(config, num_experts), numbers(7, num_tokens, DIM).requires_grad_()
    routing = router(x_TD)
    choices = routing.expert_N.view(num_tokens, k).tolist()
    for t, logits_E in enumerate(logits(router, x_TD) if num_tokens else []):
        assert references.is_best_first(references.scores(gate, logits_E.detach()), choices[t], 1e-9)
        weights_K = torch.stack(references.weights(gate, normalize, logits_E, choices[t]))
        same(routing.weight_N[t * k : (t + 1) * k], weights_K, "weights")
        same(routing.probs_TE[t], references.distribution(gate, logits_E), "probs")


def test_the_length_of_a_token_makes_no_difference_unless_its_side_is_left_as_it_is():
    x_TD = numbers(7, 9, DIM)
    both = built(CosineRouterConfig(), 5)
    same(both(3 * x_TD).logits_TE, both(x_TD).logits_TE)
    one = built(CosineRouterConfig(normalize_input=False), 5)
    same(one(3 * x_TD).logits_TE, 3 * one(x_TD).logits_TE)


def test_the_length_of_an_embedding_makes_no_difference():
    x_TD = numbers(7, 9, DIM)
    for config in (CosineRouterConfig(), CosineRouterConfig(normalize_input=False)):
        router = built(config, 5)
        before = router(x_TD)
        with torch.no_grad():
            router.expert_EA[2] *= 9
        same(router(x_TD).logits_TE, before.logits_TE)


def test_no_logit_exceeds_one_over_the_temperature():
    router = built(CosineRouterConfig(temperature=0.1), 8)
    logits_TE = router(numbers(7, 200, DIM)).logits_TE.detach()
    assert float(logits_TE.abs().max()) <= 10 + 1e-9
    assert float(logits_TE.abs().max()) > 5


def test_the_temperature_begins_as_told_and_can_leave_its_floor_again():
    router = CosineRouterConfig(temperature=0.2, temperature_floor=0.05).build(DIM, 4).double()
    same(router.temperature, torch.tensor([0.2]).double(), tolerance=1e-7)
    with torch.no_grad():
        router.gain_1.fill_(1e-3)
    assert 0.05 < float(router.temperature.detach()) < 0.051
    router(numbers(7, 3, DIM)).weight_N.sum().backward()
    assert router.gain_1.grad.abs() > 0


def test_half_as_many_dimensions_as_experts_unless_told_otherwise():
    assert CosineRouterConfig().build(DIM, 12).expert_EA.shape == (12, 6)
    assert CosineRouterConfig().build(DIM, 1).expert_EA.shape == (1, 1)
    assert CosineRouterConfig(projection=16).build(DIM, 12).expert_EA.shape == (12, 16)


def test_a_token_of_zeros_has_equal_logits_and_a_finite_gradient():
    router, x_TD = built(CosineRouterConfig(), 4), torch.zeros(2, DIM).double().requires_grad_()
    routing = router(x_TD)
    assert (routing.logits_TE == 0).all()
    routing.weight_N.sum().backward()
    assert x_TD.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in router.parameters())


def test_the_loss_is_the_switch_loss():
    config = CosineRouterConfig(k=2)
    routing = built(config, 4)(numbers(7, 9, DIM))
    choices = routing.expert_N.view(9, 2).tolist()
    same(balance_loss(routing, config.losses(4)), 0.01 * references.switch_loss(routing.probs_TE, choices, [True] * 9))


def test_k_largest_by_softmax_are_those_of_a_loop():
    router, x_TD = built(CosineRouterConfig(k=3, normalize=True), 6), numbers(7, 9, DIM).requires_grad_()
    edges = references.token_choice.softmax_top_k(logits(router, x_TD), 3, normalize=True)
    same_edges(router(x_TD), edges, x_TD)


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match=r"temperature: must be above its floor, got 0.01 with temperature_floor=0.01"):
        CosineRouterConfig(temperature=0.01)
    with pytest.raises(ValueError, match=r"k: one expert whose weight is normalised to 1 gives the router no gradient"):
        CosineRouterConfig(normalize=True)
    with pytest.raises(ValueError, match=r"^k: must be in 1..num_experts, got k=4 with num_experts=2"):
        CosineRouterConfig(k=4).build(DIM, 2)
    with pytest.raises(ValueError, match=r"^x: size of axis -1 must be 6, got shape \(3, 5\)"):
        CosineRouterConfig().build(DIM, 4)(torch.zeros(3, 5))
