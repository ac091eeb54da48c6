"""AdaMoE: null choices cost nothing, count as choices, and leave the weights to the true experts."""

import pytest
import torch
from cases import numbers, same
from hypothesis import given
from hypothesis import strategies as st
from references import losses, variable
from references.edges import choices_of
from routers.examples import DIM, experts_for, same_routing, sized

from sparsemix import GLUExpertsConfig, MoE, MoEConfig, TokenInfo, balance_loss, load
from sparsemix.routers import NullRouterConfig


def router_of(num_experts: int, **fields):
    return sized(NullRouterConfig(**fields).build(DIM, num_experts))


def choosing_by_size(logits: list[float], **fields):
    """A token with these logits."""
    router = NullRouterConfig(**fields).build(len(logits), len(logits)).double()
    torch.nn.init.eye_(router.weight_ED)
    return router(torch.tensor([logits], dtype=torch.float64))


@given(st.integers(0, 5), st.integers(2, 9), st.data())
def test_edges_are_those_of_the_reference_with_their_gradients(num_tokens, num_experts, data):
    k, num_null = data.draw(st.integers(2, num_experts)), data.draw(st.integers(1, num_experts - 1))
    router, x_TD = router_of(num_experts, k=k, num_null=num_null), numbers(1, num_tokens, DIM).requires_grad_()
    logits_TE, nulls = x_TD @ router.weight_ED.T, range(num_experts - num_null, num_experts)
    routing = router(x_TD)
    assert routing.edges_per_token == k
    same(routing.probs_TE, logits_TE.softmax(-1), "probabilities")
    edges = variable.null_experts(logits_TE, k, nulls)
    same_routing(routing, [edge._replace(kept=edge.expert not in nulls) for edge in edges], [x_TD, router.weight_ED])


@given(st.integers(1, 5), st.data())
def test_its_loss_is_that_of_the_paper(num_tokens, data):
    valid = data.draw(st.lists(st.booleans(), min_size=num_tokens, max_size=num_tokens))
    router, x_TD = router_of(6, k=3, num_null=2), numbers(1, num_tokens, DIM)
    routing = router(x_TD, TokenInfo(valid_T=torch.tensor(valid)))
    choices = choices_of(variable.null_experts(routing.logits_TE, 3, [4, 5]), num_tokens)
    expected = 0.01 * losses.null_expert_loss(routing.probs_TE, choices, [4, 5], valid, "choice")
    same(balance_loss(routing, router.config.losses(6)), expected)


def test_a_worked_vector():
    """Logits ln 4, ln 1, ln 2, ln 3; the last null; k = 3 takes experts 0, 3, 2: weights 4/6, 0, 2/6."""
    routing = choosing_by_size(torch.tensor([4.0, 1.0, 2.0, 3.0]).log().tolist(), k=3, num_null=1)
    assert routing.expert_N.tolist() == [0, 3, 2]
    assert routing.live_N.tolist() == [True, False, True]
    same(routing.weight_N, torch.tensor([4 / 6, 0, 2 / 6], dtype=torch.float64), tolerance=1e-7)


def test_the_weights_of_true_experts_sum_to_one_however_improbable_these_are():
    routing = choosing_by_size([-200.0, -200.0, 500.0], k=3, num_null=1)
    assert routing.weight_N.tolist() == [0.0, 0.5, 0.5]


def test_a_token_with_null_choices_only_gets_nothing_and_a_finite_gradient():
    router = NullRouterConfig(k=2, num_null=2).build(DIM, 4)
    with torch.no_grad():
        router.weight_ED[:] = torch.tensor([0.0, 0.0, 1.0, 1.0])[:, None]
    moe = MoE(router, GLUExpertsConfig(hidden=3).build(DIM, 4))
    x_TD = torch.ones(3, DIM, requires_grad=True)
    with torch.autograd.set_detect_anomaly(True):  # no NaN on the way, either
        y_TD, routing = moe(x_TD)
        (y_TD.sum() + routing.weight_N.sum() + balance_loss(routing, router.config.losses(4))).backward()
    assert set(routing.expert_N.tolist()) == {2, 3}
    assert not routing.live_N.any()
    assert not y_TD.any()
    assert all(parameter.grad.isfinite().all() for parameter in router.parameters())
    assert x_TD.grad.isfinite().all()


def test_null_choices_are_choices():
    routing = router_of(6, k=3, num_null=3)(numbers(1, 20, DIM))
    assert load(routing, 6).sum() == 60
    assert load(routing, 6)[3:].sum() == (~routing.live_N).sum() > 0


def test_tokens_differ_in_how_many_true_experts_they_go_to():
    routing = router_of(6, k=3, num_null=3)(numbers(1, 50, DIM))
    true_T = routing.live_N.view(50, 3).sum(1)
    assert set(true_T.tolist()) == {0, 1, 2, 3}


def test_how_choices_spread_over_null_experts_makes_no_difference_to_the_loss():
    router = router_of(6, k=3, num_null=3)
    routing = router(numbers(1, 50, DIM))
    (loss,) = router.config.losses(6)
    swapped_N = torch.where(routing.expert_N == 3, 4, torch.where(routing.expert_N == 4, 3, routing.expert_N))
    assert float(loss(routing).detach()) == float(loss(routing._replace(expert_N=swapped_N)).detach())


def test_wrong_numbers_are_refused():
    with pytest.raises(ValueError, match=r"^num_null: must leave a true expert among 4, got 4; lower it or add"):
        NullRouterConfig(num_null=4).build(DIM, 4)
    with pytest.raises(ValueError, match=r"^k: must be in 1..num_experts, got k=4 with num_experts=3; lower k"):
        NullRouterConfig(k=4).build(DIM, 3)


def test_a_layer_whose_last_experts_are_not_those_that_the_router_counts_on_is_refused():
    config, experts = NullRouterConfig(k=2, num_null=1), GLUExpertsConfig(hidden=3)
    with pytest.raises(ValueError, match=r"^experts: the last must be zero with the null router, got glu"):
        MoEConfig(num_experts=6, router=config, experts=experts).build(DIM)
    MoEConfig(num_experts=6, router=config, experts=experts_for(config, 6, hidden=3)).build(DIM)
