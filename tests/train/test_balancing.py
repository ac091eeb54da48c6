import pytest
import torch
from train.examples import tiny_model

from sparsemix.balance import balance_loss
from sparsemix.experts import GLUExpertsConfig
from sparsemix.routers import TopKRouterConfig
from sparsemix.train import BalanceConfig
from sparsemix.train.balancing import merge, unbalanced

OFF = BalanceConfig(switch=0, z=0)
NOISY = TopKRouterConfig(k=2, noise=True)


def test_the_loss_is_the_sum_that_balance_loss_is():
    routing = NOISY.build(8, 4)(torch.randn(10, 8))
    found = BalanceConfig(switch=0.1, z=0.2, importance=0.3, load=0.4).loss(routing)
    expected = balance_loss(routing, switch=0.1, z=0.2, importance=0.3, load=0.4)
    assert found.item() == pytest.approx(expected.item())
    assert OFF.loss(routing).item() == 0


def test_the_whole_of_parts_is_what_all_tokens_give():
    config = BalanceConfig(switch=1, importance=1, load=1, scope="global")
    router, x_TD = NOISY.build(8, 4), torch.randn(12, 8)
    torch.manual_seed(0)
    parts = [router(x_TD[:9]), router(x_TD[9:])]
    whole = merge([config.count(part)[0] for part in parts], [0.75, 0.25])
    chosen = torch.cat([part.expert_N for part in parts])
    torch.testing.assert_close(whole.load_E, torch.bincount(chosen, minlength=4))
    weights = torch.zeros(4).index_add(0, chosen, torch.cat([part.weight_N for part in parts]))
    torch.testing.assert_close(whole.importance_E, weights.detach() / 12, check_dtype=False)
    torch.testing.assert_close(whole.expected_load_E, torch.cat([part.load_TE for part in parts]).mean(0))


def test_only_what_a_loss_asks_for_is_counted():
    (whole,) = BalanceConfig(switch=1).count(NOISY.build(8, 4)(torch.randn(5, 8)))
    assert whole.load_E is not None
    assert whole.importance_E is whole.expected_load_E is None


@pytest.mark.parametrize(
    ("router", "balance", "expected"),
    [
        (TopKRouterConfig(k=2), BalanceConfig(), []),
        (TopKRouterConfig(k=2), OFF, [0, 1]),
        (TopKRouterConfig(k=2), BalanceConfig(switch=0, z=0, importance=0.1), []),
        (TopKRouterConfig(k=2, bias=True), OFF, []),
        (NOISY, BalanceConfig(switch=0, z=0, load=0.1), []),
    ],
)
def test_finds_routers_that_nothing_balances(router, balance, expected):
    model = tiny_model(router).build()
    state = torch.get_rng_state()
    assert unbalanced(model, balance) == expected
    assert torch.equal(torch.get_rng_state(), state)


def test_finds_routers_that_cannot_get_a_gradient():
    model = tiny_model().build()
    model.blocks[1].ffn.router.weight_ED.requires_grad_(False)
    assert unbalanced(model, BalanceConfig()) == [1]


def test_a_dense_model_has_no_routers():
    assert unbalanced(tiny_model(moe=None, ffn=GLUExpertsConfig(hidden=8)).build(), OFF) == []


def test_a_loss_that_the_router_cannot_give_is_refused_in_one_line():
    routing = TopKRouterConfig(k=2).build(8, 4)(torch.randn(5, 8))
    with pytest.raises(ValueError, match=r"load_loss: needs routing.load_TE, got None; use a router that gives it"):
        BalanceConfig(load=0.1).loss(routing)
