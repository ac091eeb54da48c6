"""The selection bias: it takes part in the choice, not in the weights, and balances the load."""

import pytest
import references
import torch
from cases import GATES, numbers, same
from routers.examples import DIM, router_of

from sparsemix import TokenInfo, TopKRouterConfig, load


@pytest.mark.parametrize("gate", GATES)
def test_the_bias_takes_part_in_the_choice_and_not_in_the_weights(gate):
    router, x_TD = router_of(6, k=2, gate=gate, bias=True), numbers(1, 20, DIM)
    router.bias_E[3] = 100
    routing = router(x_TD)
    assert (routing.expert_N.view(20, 2) == 3).any(1).all()
    expected = [
        torch.stack(references.weights(gate, True, routing.logits_TE[t], routing.expert_N[2 * t : 2 * t + 2].tolist()))
        for t in range(20)
    ]
    same(routing.weight_N, torch.cat(expected))
    same(routing.probs_TE, router_of(6, k=2, gate=gate)(x_TD).probs_TE, "probs")


@pytest.mark.parametrize("gate", GATES)
def test_a_constant_on_all_biases_changes_nothing(gate):
    router, x_TD = router_of(6, k=2, gate=gate, bias=True), numbers(1, 20, DIM)
    router.bias_E.copy_(numbers(2, 6))
    before = router(x_TD)
    router.bias_E.sub_(7.0)  # below zero as well
    after = router(x_TD)
    assert before.expert_N.equal(after.expert_N)
    assert before.weight_N.equal(after.weight_N)


def test_the_bias_is_saved_but_not_trained():
    router = router_of(4, bias=True)
    assert "bias_E" in router.state_dict()
    assert [name for name, _ in router.named_parameters()] == ["weight_ED"]
    assert not router.bias_E.requires_grad
    router(numbers(1, 5, DIM)).weight_N.sum().backward()
    assert router.bias_E.grad is None


def test_the_bias_balances_a_skewed_load_within_its_bound():
    rate, steps = 0.01, 300
    router = TopKRouterConfig(k=2, gate="sigmoid", bias=True, bias_rate=rate).build(DIM, 8)
    x_TD = torch.randn(2048, DIM)
    x_TD[:, 0] = 1
    with torch.no_grad():
        router.weight_ED[:, 0] = torch.linspace(-0.5, 0.5, 8)
        router.weight_ED[:, 1:].normal_(std=0.3)

    def violation() -> float:
        load_E = load(router(x_TD), 8).double()
        return float(load_E.max() / load_E.mean()) - 1

    before = violation()
    for step in range(1, steps + 1):
        router.update(router.statistic(router(x_TD)))
        assert float(router.bias_E.abs().max()) <= rate * step + 1e-5
    assert before > 0.5
    assert violation() < 0.1


def test_the_statistic_adds_up_over_micro_batches_and_counts_no_padding():
    router, x_TD = router_of(4, bias=True), numbers(1, 10, DIM)
    whole = router.statistic(router(x_TD))
    parts = router.statistic(router(x_TD[:3])) + router.statistic(router(x_TD[3:]))
    assert whole.equal(parts)
    padded = torch.cat([x_TD, numbers(2, 5, DIM)])
    info = TokenInfo(valid_T=torch.arange(15) < 10)
    assert router.statistic(router(padded, info)).equal(whole)
    assert router_of(4).statistic(router_of(4)(x_TD)) is None


def test_a_selection_bias_leaves_no_chance_of_selection_to_be_told():
    """It is added to scores, the noise to logits: the 2017 formula would give another chance than the true one."""
    routing = router_of(4, noise=True, bias=True)(numbers(1, 3, DIM))
    assert routing.load_TE is None
