"""What the loop makes of a routing: its balance losses, what they need of the whole batch, and who is left without."""

import pytest
import torch
from train.examples import tiny_model

from sparsemix.balance import (
    ImportanceLoss,
    LoadLoss,
    LocalEntropyLoss,
    SequenceLoss,
    SwitchLoss,
    ZLoss,
    balance_loss,
)
from sparsemix.experts import GLUExpertsConfig
from sparsemix.models.following import add_up
from sparsemix.routers import NoisyTopKRouterConfig, SelectionBiasConfig, SwitchRouterConfig, TopKRouterConfig
from sparsemix.routing import flatten
from sparsemix.train import BalanceConfig
from sparsemix.train.balancing import Balance, unbalanced

NOISY = NoisyTopKRouterConfig(k=2)
PLAIN = TopKRouterConfig(k=2)
BIASED = TopKRouterConfig(k=2, selection_bias=SelectionBiasConfig())
FOUR = (SwitchLoss(weight=0.1), ZLoss(weight=0.2), ImportanceLoss(weight=0.3), LoadLoss(weight=0.4))


@pytest.mark.parametrize(
    ("router", "losses"),
    [
        (PLAIN, (SwitchLoss(weight=0.01), ZLoss(weight=0.001))),
        (BIASED, (SequenceLoss(weight=0.0001),)),
        (NOISY, (ImportanceLoss(weight=0.1), LoadLoss(weight=0.1))),
        (SwitchRouterConfig(), (SwitchLoss(weight=0.01),)),
    ],
    ids=["topk", "bias", "noise", "switch"],
)
def test_without_losses_of_ones_own_they_are_those_of_the_routers_paper(router, losses):
    assert BalanceConfig(scope="global").build(tiny_model(router)) == Balance(losses, "global")
    own = (ZLoss(weight=3.0),)
    assert BalanceConfig(losses=own).build(tiny_model(router)) == Balance(own, "micro")
    assert BalanceConfig(losses=()).build(tiny_model(router)) == Balance((), "micro")


def test_a_dense_model_has_no_losses():
    dense = tiny_model(moe=None, ffn=GLUExpertsConfig(hidden=8))
    assert BalanceConfig().build(dense) == Balance(())


def test_the_loss_is_the_sum_that_balance_loss_is():
    routing = NOISY.build(8, 4)(torch.randn(10, 8))
    assert Balance(FOUR).loss(routing).item() == pytest.approx(balance_loss(routing, FOUR).item())
    assert Balance().loss(routing).item() == 0


def test_what_a_router_asks_for_itself_is_added_once_with_or_without_totals():
    first, second = (PLAIN.build(8, 4)(torch.randn(10, 8)) for _ in range(2))
    inner = second._replace(loss=torch.tensor(0.25, requires_grad=True))
    asking = first._replace(loss=torch.tensor(0.5, requires_grad=True), inner=(inner,))
    silent = first._replace(inner=(second,))
    for balance in (Balance(), Balance(FOUR[:2])):
        totals = [add_up([total]) for total in balance.count(asking)]
        for given in (None, totals):
            difference = balance.loss(asking, given) - balance.loss(silent, given)
            assert difference.item() == pytest.approx(0.75)
            assert torch.autograd.grad(difference, [asking.loss, inner.loss]) == (1, 1)


def test_the_whole_of_parts_is_what_all_tokens_give():
    balance, router, x_TD = Balance(FOUR), NOISY.build(8, 4), torch.randn(12, 8)
    parts = [router(x_TD[:9]), router(x_TD[9:])]
    switch, z, importance, load = add_up([balance.count(part)[0] for part in parts])
    chosen = torch.cat([part.expert_N for part in parts])
    torch.testing.assert_close(switch, torch.bincount(chosen, minlength=4))
    assert z is None
    weights = torch.zeros(4).index_add(0, chosen, torch.cat([part.weight_N for part in parts]))
    torch.testing.assert_close(importance, torch.cat([weights.detach(), torch.tensor([12.0])]))
    chances = torch.cat([part.load_TE for part in parts]).sum(0)
    torch.testing.assert_close(load, torch.cat([chances.detach(), torch.tensor([12.0])]))


def test_only_what_a_loss_with_a_coefficient_asks_for_is_counted():
    routing = PLAIN.build(8, 4)(torch.randn(5, 8))  # has no load_TE: counting it would fail
    (total,) = Balance((SwitchLoss(), LoadLoss(weight=0), LocalEntropyLoss())).count(routing)
    assert [statistic is None for statistic in total] == [False, True, True]


def test_mixtures_inside_are_counted_each_for_itself():
    outer, inner = PLAIN.build(8, 4)(torch.randn(5, 8)), PLAIN.build(8, 3)(torch.randn(7, 8))
    balance, nested = Balance((SwitchLoss(),)), outer._replace(inner=(inner,))
    counted = balance.count(nested)
    assert [int(load_E.sum()) for (load_E,) in counted] == [10, 14]
    alone = [balance.loss(one._replace(inner=())) for one in flatten(nested)]
    assert balance.loss(nested, counted).item() == pytest.approx(sum(alone).item())


@pytest.mark.parametrize(
    ("router", "losses", "expected"),
    [
        (PLAIN, None, []),
        (PLAIN, (), [0, 1]),
        (PLAIN, (SwitchLoss(weight=0),), [0, 1]),
        (PLAIN, (ImportanceLoss(weight=0.1),), []),
        (PLAIN, (SequenceLoss(),), []),
        (BIASED, (), []),
        (NOISY, (LoadLoss(),), []),
        (SwitchRouterConfig(), None, []),
        (SwitchRouterConfig(), (), [0, 1]),
    ],
)
def test_finds_routers_that_nothing_balances(router, losses, expected):
    config = tiny_model(router)
    model, balance = config.build(), BalanceConfig(losses=losses).build(config)
    state = torch.get_rng_state()
    assert unbalanced(model, balance) == expected
    assert torch.equal(torch.get_rng_state(), state)


def test_finds_routers_that_cannot_get_a_gradient():
    config = tiny_model()
    model = config.build()
    model.blocks[1].ffn.router.weight_ED.requires_grad_(False)
    assert unbalanced(model, BalanceConfig().build(config)) == [1]


def test_a_dense_model_has_no_routers():
    assert unbalanced(tiny_model(moe=None, ffn=GLUExpertsConfig(hidden=8)).build(), Balance()) == []


def test_a_loss_that_the_router_cannot_give_is_refused_in_one_line():
    routing = PLAIN.build(8, 4)(torch.randn(5, 8))
    with pytest.raises(ValueError, match=r"load_loss: needs routing.load_TE, got None; use a router that gives it"):
        Balance((LoadLoss(weight=0.1),)).loss(routing)
