"""MoE++: the residual between routers, cheap experts among the choices, a capacity for each kind."""

import pytest
import torch
from cases import numbers, same
from hypothesis import given
from hypothesis import strategies as st
from references import capacity, losses, token_choice, variable
from references.edges import choices_of
from routers.examples import DIM, below, experts_for, kept, same_routing, sized

from sparsemix import GLUExpertsConfig, MoEConfig, TokenInfo, balance_loss, load
from sparsemix.routers import CapacityConfig, MoEPPRouterConfig

PAPER = {"num_zero": 1, "num_copy": 1, "num_constant": 2, "tau": 0.75}


def router_of(num_experts: int, **fields):
    return sized(MoEPPRouterConfig(**fields).build(DIM, num_experts))


@given(st.integers(0, 5), st.integers(5, 9), st.booleans(), st.booleans(), st.data())
def test_edges_are_those_of_the_reference_with_their_gradients(num_tokens, num_experts, normalize, lowest, data):
    k = data.draw(st.integers(2, num_experts))
    router, x_TD = router_of(num_experts, k=k, normalize=normalize), numbers(1, num_tokens, DIM).requires_grad_()
    previous_TE = None if lowest else numbers(2, num_tokens, num_experts).requires_grad_()
    logits_TE, zero = 0 * x_TD[:, :1] * numbers(3, num_experts), num_experts - 4
    if num_tokens:
        logits_TE = token_choice.residual_logits(x_TD, router.weight_ED, router.residual_EE, previous_TE)

    routing = router(x_TD, None, None if lowest else below(previous_TE))

    assert routing.edges_per_token == k
    same(routing.logits_TE, logits_TE, "logits")
    same(routing.probs_TE, logits_TE.softmax(-1), "probabilities")
    if normalize:
        edges = variable.null_experts(logits_TE, k, [zero])
    else:
        edges = token_choice.softmax_top_k(logits_TE, k, normalize=False)
    inputs = [x_TD, router.weight_ED, *([] if lowest else [router.residual_EE, previous_TE])]
    same_routing(routing, [edge._replace(kept=edge.expert != zero) for edge in edges], inputs)


@given(st.integers(1, 5), st.data())
def test_its_loss_is_that_of_the_paper(num_tokens, data):
    valid = data.draw(st.lists(st.booleans(), min_size=num_tokens, max_size=num_tokens))
    router, x_TD = router_of(6, **PAPER), numbers(1, num_tokens, DIM)
    routing = router(x_TD, TokenInfo(valid_T=torch.tensor(valid)))
    choices = choices_of(token_choice.softmax_top_k(routing.logits_TE, 2, False), num_tokens)
    eta = [1.0, 1.0, 0.75, 0.75, 0.75, 0.75]
    expected = 0.01 * losses.weighted_loss(routing.probs_TE, choices, eta, valid)
    same(balance_loss(routing, router.config.losses(6)), expected)


@given(st.integers(1, 12), st.sampled_from([0.25, 0.5, 1.0]), st.sampled_from([0.5, 1.0, 2.0]))
def test_each_kind_of_expert_has_the_capacity_of_the_paper(num_tokens, tau, factor):
    limits = CapacityConfig(factor=factor, count_choices=False, rounding="down")
    router = router_of(6, **{**PAPER, "tau": tau}, capacity=limits)
    routing = router(numbers(1, num_tokens, DIM))
    of_ffn, of_cheap = (max(1, limit) for limit in capacity.moe_plus_plus_capacity(num_tokens, 2, 4, tau, factor))
    edges = capacity.by_position(token_choice.softmax_top_k(routing.logits_TE, 2, False))
    ffn = capacity.first_come([edge for edge in edges if edge.expert < 2], of_ffn)
    cheap = capacity.first_come([edge for edge in edges if edge.expert >= 2], of_cheap)
    assert set(kept(routing)) == {
        (edge.token, edge.expert) for edge in [*ffn, *cheap] if edge.kept and edge.expert != 2
    }


def test_groups_of_tokens_have_capacities_of_their_own():
    limits, x_TD = CapacityConfig(factor=0.75, group_size=4), numbers(1, 10, DIM)
    router = router_of(6, tau=0.1, capacity=limits)  # 1 place of an FFN, 2 of each other
    apart = [router(part_TD) for part_TD in x_TD.split(4)]
    assert router(x_TD).live_N[:16].equal(torch.cat([routing.live_N for routing in apart[:2]]))
    assert not router(x_TD).live_N.equal(router_of(6)(x_TD).live_N)


def test_of_all_places_ffns_have_six_tenths_in_the_model_of_the_paper():
    """tau N_f / (tau N_f + N_z) with tau = 0.75, 8 FFNs and 4 others."""
    sizes = MoEPPRouterConfig(**PAPER).sizes(12)
    assert sum(sizes[:8]) / sum(sizes) == 0.6
    assert MoEPPRouterConfig(**PAPER).costs(12) == (1.0,) * 8 + (0.75,) * 4


def test_a_worked_vector():
    """Logits of 5 experts: an FFN, a zero, a copy and two constant ones; W_g doubles what is below."""
    router = MoEPPRouterConfig().build(5, 5).double()
    torch.nn.init.eye_(router.weight_ED)
    with torch.no_grad():
        router.residual_EE.copy_(2 * torch.eye(5))
    x_TD, below_TE = torch.tensor([[4.0, 1.0, 1.0, 1.0, 2.0]]).log(), torch.tensor([[1.0, 2.0, 1.0, 1.0, 1.0]]).log()
    routing = router(x_TD.double(), None, below(below_TE.double()))
    same(routing.probs_TE, torch.tensor([[4, 4, 1, 1, 2]], dtype=torch.float64) / 12, tolerance=1e-7)
    assert set(routing.expert_N.tolist()) == {0, 1}
    assert kept(routing) == [(0, 0)]
    same(routing.weight_N, torch.tensor([1 / 3, 1 / 3], dtype=torch.float64), tolerance=1e-7)


def test_zero_experts_are_choices_that_cost_nothing():
    router = router_of(6, num_zero=3, num_copy=1, num_constant=0)
    routing = router(numbers(1, 40, DIM))
    is_zero_N = (routing.expert_N >= 2) & (routing.expert_N < 5)
    assert routing.live_N.equal(~is_zero_N)
    assert load(routing, 6).sum() == 80
    assert load(routing, 6)[2:5].sum() == is_zero_N.sum() > 0


def test_the_residual_is_in_the_graph_of_the_lowest_mixture_too():
    router = router_of(6)
    router(numbers(1, 3, DIM)).weight_N.sum().backward()
    assert not router.residual_EE.grad.any()


def test_it_says_that_it_reads_the_routing_below():
    assert router_of(6).reads_previous


@pytest.mark.parametrize(
    ("previous", "message"),
    [
        (below(torch.zeros(3, 6))._replace(logits_TE=None), r"^previous: must have logits .*, got logits_TE=None; put"),
        (below(torch.zeros(3, 5)), r"^previous.logits_TE: size of axis 1 must be 6, got shape \(3, 5\)"),
        (below(torch.zeros(2, 6)), r"^previous.logits_TE: size of axis 0 must be 3, got shape \(2, 6\)"),
    ],
)
def test_a_routing_below_without_fitting_logits_is_refused(previous, message):
    with pytest.raises(ValueError, match=message):
        router_of(6)(numbers(1, 3, DIM), None, previous)


def test_wrong_numbers_are_refused():
    with pytest.raises(ValueError, match=r"^num_zero \+ .*: must leave an FFN among 4, got 4; lower one"):
        MoEPPRouterConfig().build(DIM, 4)
    with pytest.raises(ValueError, match=r"^k: must be in 1..num_experts, got k=7 with num_experts=6; lower k"):
        MoEPPRouterConfig(k=7).build(DIM, 6)
    with pytest.raises(ValueError, match=r"k: one expert .* no gradient, got k=1 with normalize=True"):
        MoEPPRouterConfig(k=1, normalize=True)


def test_a_layer_whose_last_experts_are_not_those_that_the_router_counts_on_is_refused():
    config, experts = MoEPPRouterConfig(num_constant=1), GLUExpertsConfig(hidden=3)
    with pytest.raises(ValueError, match=r"^experts: the last must be zero, copy, constant with .*, got glu"):
        MoEConfig(num_experts=6, router=config, experts=experts).build(DIM)
    MoEConfig(num_experts=6, router=config, experts=experts_for(config, 6, hidden=3)).build(DIM)
