"""Null experts leave a model as it was while they can never be chosen, or always are."""

from __future__ import annotations

import pytest
import torch
from surgery.models import HIDDEN, built, check_theory, kind_of, sparse

from sparsemix import MLPExpertsConfig, SelectionBiasConfig, SwitchRouterConfig, TopKRouterConfig, balance_loss
from sparsemix.surgery import AddNullConfig, add_null

ROUTERS = [TopKRouterConfig(), TopKRouterConfig(gate="topk_softmax"), TopKRouterConfig(gate="topk_softmax", bias=True)]


@pytest.mark.parametrize("router", ROUTERS, ids=kind_of)
@pytest.mark.parametrize("begin", ["never", "always"])
def test_null_experts_that_no_token_or_every_token_chooses_change_nothing(router, begin) -> None:
    model = sparse(router=router, kind=MLPExpertsConfig(hidden=HIDDEN, bias=True))
    after = add_null(model, AddNullConfig(num_null=3, begin=begin))
    assert after.model.config.moe.router.k == (2 if begin == "never" else 5)
    check_theory(model, after, exact=True)


@pytest.mark.parametrize("settings", [{}, {"begin": "never", "k": 3}, {"begin": "always", "k": 2}])
def test_otherwise_tokens_have_other_numbers_of_experts(settings) -> None:
    model = sparse(num_experts=6)
    check_theory(model, add_null(model, AddNullConfig(num_null=2, **settings)), exact=False)


def test_tokens_then_differ_in_how_many_true_experts_they_have() -> None:
    after = add_null(sparse(num_experts=6), AddNullConfig(num_null=3, k=3, router_std=0.5))
    routing = built(after.model).blocks[0].ffn(torch.randn(64, 8, dtype=torch.float64))[1]
    live = routing.live_N.view(64, 3).sum(1)
    assert live.min() < live.max()


def test_routers_learn_of_null_experts() -> None:
    decoder = built(add_null(sparse(), AddNullConfig(num_null=2)).model).train()
    routing = decoder.blocks[0].ffn(torch.randn(64, 8, dtype=torch.float64))[1]
    balance_loss(routing).backward()
    gradient = decoder.blocks[0].ffn.router.weight_ED.grad
    assert (gradient.abs().amax(1) > 0).all()


@pytest.mark.parametrize(
    ("router", "complaint"),
    [
        (TopKRouterConfig(normalize=False), "router: must give the softmax over the chosen"),
        (TopKRouterConfig(gate="sigmoid"), "router: must give the softmax over the chosen"),
        (TopKRouterConfig(selection_bias=SelectionBiasConfig()), "router: must give the softmax over the chosen"),
        (SwitchRouterConfig(capacity=None), "router: must be topk"),
    ],
)
def test_refuses(router, complaint) -> None:
    with pytest.raises((ValueError, TypeError), match=complaint):
        add_null(sparse(router=router), AddNullConfig(num_null=1))
