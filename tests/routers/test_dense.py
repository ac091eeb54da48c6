"""The dense mixtures of 1991 and 2013: all experts, a gate of one layer or two, and loads held by running totals."""

import pytest
import torch
from cases import numbers, same
from hypothesis import given
from hypothesis import strategies as st
from references import batchwise, gates
from references.edges import Edge
from routers.examples import DIM, router_of, same_routing, sized

from sparsemix import GLUExpertsConfig, MoE, TokenInfo, sort_by_expert
from sparsemix.routers import DenseRouter, DenseRouterConfig


def dense(num_experts: int, excess: list[float] | None = None, **fields) -> DenseRouter:
    """With such totals, less their mean."""
    router = sized(DenseRouterConfig(**fields).build(DIM, num_experts))
    if excess is not None:
        router.update(torch.tensor(excess, dtype=torch.float64))
    return router


def all_edges(logits_TE: torch.Tensor) -> list[Edge]:
    return [Edge(t, e, p) for t, row in enumerate(logits_TE) for e, p in enumerate(gates.softmax(row))]


@given(st.integers(0, 5), st.integers(1, 9), st.none() | st.integers(1, 4))
def test_every_token_goes_to_every_expert_with_the_weight_of_the_gate(num_tokens, num_experts, hidden):
    router, x_TD = dense(num_experts, hidden=hidden), numbers(1, num_tokens, DIM).requires_grad_()
    if hidden:
        hidden_TF = (x_TD @ router.hidden_FD.T + router.hidden_bias_F).clamp(min=0)
        logits_TE = hidden_TF @ router.weight_ED.T + router.bias_E
    else:
        logits_TE = x_TD @ router.weight_ED.T
    routing = router(x_TD)
    assert routing.edges_per_token == num_experts
    same(routing.logits_TE, logits_TE, "logits")
    same_routing(routing, all_edges(logits_TE), [x_TD, *router.parameters()])


@pytest.mark.parametrize("hidden", [None, 5])
def test_the_gradients_are_those_of_finite_differences(hidden):
    router, x_TD = dense(3, hidden=hidden, excess=[9.0, 0.0, 0.0], margin=1.0), numbers(1, 2, DIM).requires_grad_()
    names, values = zip(*router.named_parameters())

    def weights(x_TD, *parameters):
        return torch.func.functional_call(router, dict(zip(names, parameters)), (x_TD,)).weight_N

    assert torch.autograd.gradcheck(weights, (x_TD, *values))


def test_choices_come_best_first():
    weight_TE = dense(5)(numbers(1, 9, DIM)).weight_N.detach().view(9, 5)
    assert (weight_TE[:, :-1] >= weight_TE[:, 1:]).all()


@pytest.mark.parametrize("gate", ["softmax_topk", "topk_softmax"])
def test_top_k_of_all_experts_is_the_dense_mixture(gate):
    x_TD, topk = numbers(1, 9, DIM), router_of(5, k=5, gate=gate, normalize=False)
    router = DenseRouterConfig().build(DIM, 5).double()
    router.load_state_dict({**topk.state_dict(), "excess_E": router.excess_E})
    experts = GLUExpertsConfig(hidden=3).build(DIM, 5).double()
    same(MoE(router, experts)(x_TD)[0], MoE(topk, experts)(x_TD)[0])


def test_one_expert_alone_has_weight_one_and_leaves_the_router_no_gradient():
    router = dense(1)
    routing = router(numbers(1, 4, DIM))
    assert routing.weight_N.tolist() == [1.0] * 4
    routing.weight_N.sum().backward()
    assert not router.weight_ED.grad.any()


# --- the running totals of 2013 ---------------------------------------------------------------------------------------


@given(st.integers(0, 6), st.integers(1, 5), st.sampled_from([0.1, 0.5, 2.0]), st.data())
def test_within_a_batch_the_totals_are_those_of_the_batches_before(num_tokens, num_experts, margin, data):
    totals = data.draw(st.lists(st.integers(0, 3), min_size=num_experts, max_size=num_experts))
    router, x_TD = dense(num_experts, totals, margin=margin), numbers(1, num_tokens, DIM).requires_grad_()
    logits_TE = x_TD @ router.weight_ED.T
    before_E = torch.tensor(totals, dtype=torch.float64)
    edges, after_E = batchwise.running_totals(logits_TE, before_E, margin, frozen=True)

    routing = router(x_TD)

    given = {(edge.token, edge.expert) for edge in edges}
    zero = [edge._replace(weight=0 * edge.weight, kept=False) for edge in all_edges(logits_TE)]
    same_routing(routing, [*edges, *(edge for edge in zero if edge[:2] not in given)], [x_TD, router.weight_ED])
    router.update(router.statistic(routing))
    same(router.excess_E, after_E - after_E.mean(), "totals")


def test_one_example_a_batch_is_the_order_of_the_paper():
    router, x_TD, margin = dense(4, margin=0.3), 3 * numbers(1, 40, DIM), 0.3
    expected, totals_E = batchwise.running_totals(
        (x_TD @ router.weight_ED.T).detach(), torch.zeros(4, dtype=torch.float64), margin
    )
    live = []
    for t, x_D in enumerate(x_TD):
        routing = router(x_D[None])
        live += [(t, e) for e in routing.expert_N[routing.live_N].tolist()]
        router.update(router.statistic(routing))
    assert set(live) == {(edge.token, edge.expert) for edge in expected}
    assert len(live) < 160
    same(router.excess_E, totals_E - totals_E.mean())


def test_the_constraint_holds_the_totals_together():
    """Every token wants expert 0; it gets no more than the margin and one batch ahead of the mean."""
    router = DenseRouterConfig(margin=5.0).build(DIM, 4)
    with torch.no_grad():
        router.weight_ED[0] += 5
    for _ in range(50):
        routing = router(torch.rand(8, DIM))
        router.update(router.statistic(routing))
        assert float(router.excess_E.max()) <= 5 + 8
        sums_T = torch.zeros(8).index_add(0, routing.token_N, routing.weight_N.detach())
        assert torch.allclose(sums_T, torch.ones(8))


def test_the_constraint_is_off_in_evaluation_and_can_be_lifted():
    router, x_TD = dense(3, [9.0, 0.0, 0.0], margin=1.0), numbers(1, 5, DIM)
    lifted = DenseRouterConfig().build(DIM, 3).double()
    lifted.load_state_dict(router.state_dict())
    free = lifted(x_TD)
    assert router(x_TD).live_N.sum() == 10
    assert router.eval()(x_TD).weight_N.equal(free.weight_N)
    assert free.live_N.all()
    assert lifted.statistic(free) is None


def test_a_closed_expert_is_not_computed():
    router, x_TD = dense(3, [9.0, 0.0, 0.0], margin=1.0), numbers(1, 5, DIM)
    bounds = sort_by_expert(router(x_TD), 3).bounds
    assert bounds.tolist() == [0, 0, 5, 10]


def test_a_weight_that_underflows_to_zero_is_not_computed():
    router = DenseRouterConfig().build(2, 2)
    torch.nn.init.eye_(router.weight_ED)
    routing = router(torch.tensor([[200.0, -200.0], [0.0, 1.0]]))
    assert sort_by_expert(routing, 2).bounds.tolist() == [0, 2, 3]


def test_totals_count_no_padding_and_add_up_over_micro_batches():
    router, x_TD = dense(3, margin=1.0), numbers(1, 7, DIM)
    whole = router.statistic(router(x_TD))
    same(router.statistic(router(x_TD[:3])) + router.statistic(router(x_TD[3:])), whole)
    padded = router(torch.cat([x_TD, numbers(2, 4, DIM)]), TokenInfo(valid_T=torch.arange(11) < 7))
    same(router.statistic(padded), whole)
    same(whole.sum(), torch.tensor(7.0, dtype=torch.float64))


def test_totals_of_many_tokens_still_count_single_ones():
    router = DenseRouterConfig(margin=1.0).build(DIM, 2)
    for _ in range(3):
        router.update(torch.tensor([2.0**25, 2.0**25]))
    router.update(torch.tensor([3.0, 0.0]))
    assert router.excess_E.tolist() == [1.5, -1.5]
