"""The sum of balance losses: over layers, over mixtures inside, with what routers ask for themselves."""

import pytest
import torch
from cases import numbers, same
from routers.examples import DIM, sized

from sparsemix import (
    ImportanceLoss,
    LoadLoss,
    NoisyTopKRouterConfig,
    Routing,
    SwitchLoss,
    TokenInfo,
    TopKRouterConfig,
    ZLoss,
    balance_loss,
    importance_loss,
    load,
    load_loss,
    switch_loss,
    z_loss,
)
from sparsemix.balance import USUAL


def routed(num_tokens: int, num_experts: int, seed: int = 0, config=TopKRouterConfig()):  # noqa: B008
    """A routing in float64 with logits of size 1, and the router's parameters."""
    router = sized(config.build(DIM, num_experts), seed)
    return router(numbers(seed + 9, num_tokens, DIM)), list(router.parameters())


def test_it_is_the_weighted_sum_over_layers_and_over_mixtures_inside():
    first, parameters = routed(5, 4)
    second, _ = routed(7, 3, seed=20)
    inner, _ = routed(4, 2, seed=40)
    nested = second._replace(inner=(inner,))
    expected = sum(0.01 * switch_loss(r) + 0.001 * z_loss(r) for r in (first, second, inner))
    same(balance_loss([first, nested]), expected)
    same(balance_loss((first,)), balance_loss(first))
    assert torch.autograd.grad(balance_loss(first), parameters)[0].abs().sum() > 0


def test_the_usual_ones_are_those_of_switch_and_st_moe():
    assert (SwitchLoss(weight=0.01), ZLoss(weight=0.001)) == USUAL


def test_each_loss_counts_by_its_weight_and_those_without_are_not_computed():
    routing, _ = routed(5, 4, config=NoisyTopKRouterConfig(k=2))
    quiet = routing._replace(load_TE=None, probs_TE=None)
    same(balance_loss(quiet, [SwitchLoss(weight=0), LoadLoss(weight=0), ZLoss(weight=0.5)]), 0.5 * z_loss(quiet))
    losses = [SwitchLoss(weight=1), ZLoss(weight=2), ImportanceLoss(weight=3), LoadLoss(weight=4)]
    expected = switch_loss(routing) + 2 * z_loss(routing) + 3 * importance_loss(routing) + 4 * load_loss(routing)
    same(balance_loss(routing, losses), expected)


def test_what_routers_ask_for_is_added_wherever_they_are():
    first, _ = routed(5, 4)
    asked, inside = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (0.3, 0.2))
    asking = first._replace(loss=asked, inner=(first._replace(loss=inside),))
    same(balance_loss(asking) - balance_loss(first._replace(inner=(first,))), (asked + inside).detach())
    alone = balance_loss(asking, [])
    same(alone, torch.tensor(0.5, dtype=torch.float64))
    assert torch.autograd.grad(alone, [asked, inside]) == (1, 1)


@pytest.mark.parametrize("losses", [[], [SwitchLoss(weight=0), ZLoss(weight=0)]])
def test_nothing_to_add_up_is_refused(losses):
    routing, _ = routed(5, 4)
    message = r"^balance_loss: needs a routing and a coefficient above 0, got 0 terms"
    with pytest.raises(ValueError, match=message):
        balance_loss(routing, losses)
    with pytest.raises(ValueError, match=message):
        balance_loss([])


def test_padding_changes_no_loss_and_no_gradient():
    router = TopKRouterConfig(k=2).build(DIM, 4).double()
    x_TD, pad_TD = numbers(1, 5, DIM), 50 * numbers(2, 3, DIM)
    losses = []
    for batch, info in ((x_TD, None), (torch.cat([x_TD, pad_TD]), TokenInfo(valid_T=torch.arange(8) < 5))):
        routing = router(batch, info)
        loss = balance_loss(routing, [*USUAL, ImportanceLoss()])
        losses.append([loss, *torch.autograd.grad(loss, list(router.parameters()))])
        assert load(routing, 4).sum() == 10
    for alone, padded in zip(*losses):
        same(padded, alone)


@pytest.mark.parametrize("loss", [SwitchLoss, ZLoss, ImportanceLoss, LoadLoss])
def test_a_negative_coefficient_is_refused(loss):
    with pytest.raises(ValueError, match="weight: Input should be greater than or equal to 0, got -1"):
        loss(weight=-1.0)


def test_a_loss_of_ones_own_is_anything_with_a_weight():
    class Largest:
        weight = 2.0

        def statistic(self, routing: Routing) -> None:
            return None

        def __call__(self, routing: Routing, total=None) -> torch.Tensor:
            return routing.probs_TE.max()

    routing, _ = routed(5, 4)
    same(balance_loss(routing, [Largest()]), 2 * routing.probs_TE.max())
