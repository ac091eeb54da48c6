"""ReMoE: edges where the gate is positive, and a penalty whose coefficient follows the sparsity."""

import pytest
import torch
from cases import numbers, same
from hypothesis import assume, given
from hypothesis import strategies as st
from references import losses, updates, variable
from routers.examples import DIM, same_routing, sized

from sparsemix import TokenInfo, balance_loss, switch_loss
from sparsemix.routers import ReLURouterConfig


def router_of(num_experts: int, coefficient: float = 1e-8, **fields):
    router = sized(ReLURouterConfig(coefficient=coefficient, **fields).build(DIM, num_experts))
    router.coefficient.fill_(coefficient)  # with all digits of float64
    return router


@given(st.integers(0, 5), st.integers(1, 9))
def test_edges_are_those_of_the_reference_with_their_gradients(num_tokens, num_experts):
    router, x_TD = router_of(num_experts), numbers(1, num_tokens, DIM).requires_grad_()
    logits_TE = x_TD @ router.weight_ED.T
    routing = router(x_TD)
    assert routing.edges_per_token is None
    same(routing.logits_TE, logits_TE, "logits")
    same_routing(routing, variable.relu(logits_TE), [x_TD, router.weight_ED])


@given(st.integers(1, 5), st.integers(1, 6), st.data())
def test_the_loss_is_the_penalty_of_the_paper_with_its_gradient(num_tokens, num_experts, data):
    k = data.draw(st.integers(1, num_experts))
    valid = data.draw(st.lists(st.booleans(), min_size=num_tokens, max_size=num_tokens))
    router, x_TD = router_of(num_experts, k=k, coefficient=0.3), numbers(1, num_tokens, DIM).requires_grad_()
    loss = router(x_TD, TokenInfo(valid_T=torch.tensor(valid))).loss
    expected = 0.3 * losses.relu_loss(x_TD @ router.weight_ED.T, k, valid)
    same(loss, expected)
    inputs = [x_TD, router.weight_ED]
    for ours, theirs in zip(torch.autograd.grad(loss, inputs), torch.autograd.grad(expected, inputs)):
        same(ours, theirs, "gradient")


def test_the_gradients_are_those_of_finite_differences():
    router, x_TD = router_of(4, coefficient=1.0), numbers(1, 3, DIM).requires_grad_()

    def weights_and_loss(x_TD, weight_ED):
        routing = torch.func.functional_call(router, {"weight_ED": weight_ED}, (x_TD,))
        return routing.weight_N, routing.loss

    assert torch.autograd.gradcheck(weights_and_loss, (x_TD, router.weight_ED))


def test_gradient_reaches_a_logit_only_where_it_is_positive():
    router = router_of(3)
    torch.nn.init.eye_(router.weight_ED)
    x_TD = torch.zeros(1, DIM, dtype=torch.float64)
    x_TD[0, :3] = torch.tensor([2.0, -1.0, 0.0])
    routing = router(x_TD)
    (grad_TE,) = torch.autograd.grad(routing.weight_N.sum() + routing.loss, routing.logits_TE)
    assert routing.expert_N.tolist() == [0]
    assert (grad_TE[0] != 0).tolist() == [True, False, False]


def test_a_token_may_have_no_expert():
    router = router_of(3)
    torch.nn.init.eye_(router.weight_ED)
    x_TD = torch.tensor([-1.0, 1.0], dtype=torch.float64)[:, None].expand(2, DIM)
    assert router(x_TD).token_N.tolist() == [1, 1, 1]


def test_training_begins_dense_enough_to_learn():
    routing = ReLURouterConfig().build(64, 16)(torch.randn(200, 64))
    assert 0.4 < len(routing.token_N) / (200 * 16) < 0.6


def test_it_has_no_distribution_for_a_switch_loss():
    router = router_of(4)
    routing = router(numbers(1, 5, DIM))
    with pytest.raises(ValueError, match=r"switch_loss: needs routing.probs_TE"):
        switch_loss(routing)
    assert float(balance_loss(routing, router.config.losses(4)).detach()) == float(routing.loss.detach()) > 0


@given(st.integers(0, 6), st.integers(1, 6), st.data())
def test_the_coefficient_steps_as_in_the_paper(num_tokens, num_experts, data):
    k = data.draw(st.integers(1, num_experts))
    valid = data.draw(st.lists(st.booleans(), min_size=num_tokens, max_size=num_tokens))
    router, x_TD = router_of(num_experts, k=k, coefficient=0.1), numbers(1, num_tokens, DIM)
    routing = router(x_TD, TokenInfo(valid_T=torch.tensor(valid, dtype=torch.bool)))
    sparsity = updates.zero_fraction(routing.logits_TE, valid)
    assume(abs(sparsity - (1 - k / num_experts)) > 1e-9)  # a tie that the rounding of the formula decides
    expected = updates.coefficient_step(0.1, sparsity, k, num_experts) if any(valid) else 0.1
    router.update(router.statistic(routing))
    same(router.coefficient, torch.tensor(expected, dtype=torch.float64))


def test_the_coefficient_rises_while_too_dense_and_falls_otherwise():
    """E = 4, k = 1: at least 3 of 4 gates are to be 0."""
    router = router_of(4, coefficient=1.0)
    router.update(torch.tensor([74, 100]))
    same(router.coefficient, torch.tensor(1.2, dtype=torch.float64))
    router.update(torch.tensor([75, 100]))  # just sparse enough: not below the target
    same(router.coefficient, torch.tensor(1.0, dtype=torch.float64))


def test_the_statistic_adds_up_over_micro_batches():
    router, x_TD = router_of(4), numbers(1, 10, DIM)
    whole, parts = router.statistic(router(x_TD)), [router.statistic(router(part)) for part in x_TD.split([3, 7])]
    assert whole.equal(parts[0] + parts[1])
    assert whole[1] == 40


def test_the_coefficient_is_saved_but_not_trained_and_can_always_come_back():
    router = ReLURouterConfig().build(DIM, 4).bfloat16()
    assert router.coefficient.dtype == torch.float32
    assert "coefficient" in router.state_dict()
    assert "coefficient" not in dict(router.named_parameters())
    for zeros, limit in ((100, torch.finfo(torch.float32).tiny), (0, 1 / torch.finfo(torch.float32).tiny)):
        for _ in range(1200):
            router.update(torch.tensor([zeros, 100]))
        assert float(router.coefficient) == limit


def test_training_brings_the_sparsity_to_its_target():
    """The task wants more than half of the gates open. So few steps oscillate at a growth of 1.2."""
    num_experts, k = 8, 2
    router = ReLURouterConfig(k=k, coefficient=1e-4, growth=1.05).build(DIM, num_experts)
    optimizer = torch.optim.Adam(router.parameters(), lr=0.1)
    wanted_ED = torch.randn(num_experts, DIM)
    seen = []
    for _ in range(600):
        x_TD = torch.randn(128, DIM) + 1
        routing = router(x_TD)
        gates_TE = torch.zeros(128, num_experts).index_put((routing.token_N, routing.expert_N), routing.weight_N)
        loss = (gates_TE - (x_TD @ wanted_ED.T).relu()).square().mean() + routing.loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        zeros, gates = statistic = router.statistic(routing)
        router.update(statistic)
        seen.append(float(zeros / gates))
    assert min(seen[:100]) < 0.5
    assert sum(seen[-200:]) / 200 == pytest.approx(1 - k / num_experts, abs=0.01)


def test_a_target_beyond_the_experts_is_refused():
    with pytest.raises(ValueError, match=r"^k: must be in 1..num_experts, got k=5 with num_experts=4; lower k"):
        ReLURouterConfig(k=5).build(DIM, 4)
