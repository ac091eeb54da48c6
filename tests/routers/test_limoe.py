"""LIMoE: V-MoE's router for one expert a token, with the entropies of modalities among its losses."""

import math

import pytest
import references
import torch
from cases import numbers, same
from hypothesis import given, settings
from hypothesis import strategies as st
from routers.examples import DIM, built, gradient, told

from sparsemix import TokenInfo, balance_loss
from sparsemix.balance import GlobalEntropyLoss
from sparsemix.routers import LIMoERouterConfig, VMoERouter, VMoERouterConfig

IMAGE, TEXT = 0, 1
CONFIG = LIMoERouterConfig(min_experts=(3.0, 2.0), local=(TEXT,))


def test_the_router_is_that_of_v_moe_with_one_expert_a_token():
    router = built(CONFIG, 5)
    twin = built(VMoERouterConfig(k=1, capacity=CONFIG.capacity), 5)
    assert isinstance(router, VMoERouter)
    x_TD = numbers(1, 9, DIM)
    torch.manual_seed(3)
    routing = router(x_TD)
    torch.manual_seed(3)
    expected = twin(x_TD)
    assert routing.expert_N.equal(expected.expert_N)
    assert routing.weight_N.equal(expected.weight_N)
    assert routing.edges_per_token == 1


@settings(max_examples=50)
@given(st.lists(st.tuples(st.sampled_from([IMAGE, TEXT]), st.booleans()), min_size=1, max_size=6))
def test_losses_are_those_of_v_moe_and_the_entropies_of_each_modality(tokens):
    modality, valid = [m for m, _ in tokens], [v for _, v in tokens]
    if not any(valid):
        return
    router = built(CONFIG, 4)
    info = TokenInfo(valid_T=torch.tensor(valid), modality_T=torch.tensor(modality))
    routing = router(numbers(1, len(tokens), DIM), info)

    losses, probs_TE = references.losses, routing.probs_TE
    expected = 0.005 * losses.gate_importance_loss(probs_TE, valid) + 0.005 * losses.load_loss(routing.load_TE, valid)
    expected = expected + 0.04 * losses.limoe_local_loss(probs_TE, modality, TEXT, valid)
    for m, least in enumerate(CONFIG.min_experts):
        expected = expected + 0.04 * losses.limoe_global_loss(probs_TE, modality, m, valid, math.log(least))
    loss = balance_loss(routing, CONFIG.losses(4))
    same(loss, expected)
    same(gradient(loss, router.weight_ED), gradient(expected, router.weight_ED))


@pytest.mark.parametrize(("spread", "active"), [(3, False), (1, True)])
def test_the_hinge_rests_once_a_modality_spreads_over_enough_experts(spread, active):
    """Sure tokens on `spread` experts have a marginal entropy of ln(spread); the soft minimum is 2."""
    router, x_TD = told(CONFIG, 40.0 * torch.eye(4)[torch.arange(6) % spread])
    routing = router.eval()(x_TD, TokenInfo(modality_T=torch.full((6,), TEXT)))
    losses = [loss for loss in CONFIG.losses(4) if isinstance(loss, GlobalEntropyLoss) and loss.modality == TEXT]
    value = losses[0](routing).item()
    assert abs(value - (math.log(2) if active else 0)) < 1e-9


def test_the_surest_tokens_are_served_first():
    config = LIMoERouterConfig(min_experts=(2.0,), noise_std=0.0)
    x_TD = torch.tensor([[1.0, 0], [2, 0], [3, 0], [4, 0], [5, 0], [6, 0], [7, 0], [8, 0], [9, 0]])
    router, x_TD = told(config, x_TD)  # ceil(1.05 * 9 / 2) is 5, and 8 by fours
    assert router(x_TD).live_N.tolist() == [False] + [True] * 8


def test_impossible_modalities_are_refused():
    with pytest.raises(ValueError, match=r"^min_experts: must be at most the 4 experts, got 8.0; lower it"):
        LIMoERouterConfig(min_experts=(2.0, 8.0)).build(DIM, 4)
    with pytest.raises(ValueError, match=r"local: modalities must be in 0..0, got \(1,\); give each a min_experts"):
        LIMoERouterConfig(min_experts=(2.0,), local=(1,))
    with pytest.raises(ValueError, match=r"info.modality_T: is needed by a loss of one modality"):
        balance_loss(built(CONFIG, 4)(numbers(1, 3, DIM)), CONFIG.losses(4))
