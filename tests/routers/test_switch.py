"""Switch routing: one expert a token by its probability, jitter in training only, and places in experts."""

import pytest
import torch
from cases import numbers, same
from hypothesis import given, settings
from hypothesis import strategies as st
from references import limited, losses
from references.edges import choices_of
from references.gates import softmax
from routers.examples import DIM, same_edges, sized, told

from sparsemix import CapacityConfig, SwitchLoss, TokenInfo, balance_loss, load
from sparsemix.routers import SwitchRouterConfig

QUIET = {"jitter": 0.0}


def router_of(num_experts: int, **fields):
    return sized(SwitchRouterConfig(**fields).build(DIM, num_experts))


@settings(max_examples=60)
@given(
    st.integers(0, 8), st.integers(1, 6), st.integers(1, 4), st.booleans(), st.none() | st.integers(0, 2**8 - 1)
)  # fmt: skip
def test_edges_and_gradients_are_those_of_the_paper(num_tokens, num_experts, places, alike, padding):
    factor = places * num_experts / max(num_tokens, 1)
    router = router_of(num_experts, capacity=CapacityConfig(factor=factor), **QUIET)
    x_TD = numbers(9, num_tokens, DIM)
    if alike:
        x_TD[:] = numbers(8, DIM)
    x_TD.requires_grad_()
    valid = [padding is None or bool(padding >> t & 1) for t in range(num_tokens)]
    info = None if padding is None else TokenInfo(valid_T=torch.tensor(valid, dtype=torch.bool))
    routing = router(x_TD, info)
    logits_TE = x_TD @ router.weight_ED.T
    rows = [t for t in range(num_tokens) if valid[t]]
    expected = [edge._replace(token=rows[edge.token]) for edge in limited.switch(logits_TE[rows], places)]

    assert routing.edges_per_token == 1
    same(routing.logits_TE, logits_TE, "logits")
    same(routing.probs_TE, torch.stack([softmax(z) for z in logits_TE]) if num_tokens else logits_TE, "probabilities")
    for tensor in (x_TD, router.weight_ED):
        same_edges(routing, expected, tensor)


@settings(max_examples=40)
@given(st.integers(1, 8), st.integers(2, 6), st.data())
def test_its_loss_is_that_of_the_paper(num_tokens, num_experts, data):
    valid = data.draw(st.lists(st.booleans(), min_size=num_tokens, max_size=num_tokens))
    router, x_TD = router_of(num_experts, **QUIET), numbers(9, num_tokens, DIM)
    routing = router(x_TD, TokenInfo(valid_T=torch.tensor(valid)))
    choices = choices_of(limited.switch(routing.logits_TE, num_tokens), num_tokens)
    expected = 0.01 * losses.first_choice_loss(routing.probs_TE, choices, valid)
    same(balance_loss(routing, router.config.losses(num_experts)), expected)


@pytest.mark.parametrize("num_experts", [1, 2, 64])
def test_ties_give_each_token_one_expert_all_the_same(num_experts):
    router = SwitchRouterConfig(capacity=None).build(DIM, num_experts).eval()
    torch.nn.init.zeros_(router.weight_ED)
    routing = router(torch.randn(9, DIM))
    assert int(load(routing, num_experts).max()) == 9
    assert (routing.weight_N == 1 / num_experts).all()


def test_the_weight_is_the_probability_not_renormalised():
    router, x_TD = told(SwitchRouterConfig(capacity=None), torch.tensor([[0.0, 1.0], [3.0, 3.0 - 1e-9]]))
    routing = router.eval()(x_TD)
    assert routing.expert_N.tolist() == [1, 0]
    same(routing.weight_N, torch.tensor([0.7310585786, 0.5], dtype=torch.float64), tolerance=1e-8)
    (grad_TD,) = torch.autograd.grad(routing.weight_N[0], x_TD)
    p = 0.7310585786
    same(grad_TD[0], torch.tensor([-p * (1 - p), p * (1 - p)], dtype=torch.float64), tolerance=1e-8)


# --- jitter ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["input", "logits"])
def test_jitter_is_drawn_anew_in_training_and_absent_in_evaluation(where):
    router, x_TD = router_of(4, jitter=0.1, jitter_on=where), numbers(1, 9, DIM)
    assert not router(x_TD).logits_TE.equal(router(x_TD).logits_TE)
    assert router.eval()(x_TD).logits_TE.equal(router_of(4, **QUIET)(x_TD).logits_TE)


def test_jitter_on_the_input_multiplies_it_and_leaves_the_mean_of_the_logits():
    router, x_TD = router_of(4, jitter=0.1), numbers(1, 1, DIM).expand(40_000, DIM)
    torch.manual_seed(3)
    logits_TE = router(x_TD).logits_TE.detach()
    torch.manual_seed(3)
    factor_TD = torch.empty(40_000, DIM, dtype=torch.float64).uniform_(0.9, 1.1)
    same(logits_TE, ((x_TD * factor_TD) @ router.weight_ED.T).detach())
    error_E = logits_TE.std(0) / 200
    assert ((logits_TE.mean(0) - (x_TD[0] @ router.weight_ED.T).detach()).abs() < 4 * error_E).all()


def test_jitter_on_the_logits_adds_what_lies_around_one_as_the_pseudo_code_says():
    router, x_TD = router_of(4, jitter=0.1, jitter_on="logits"), numbers(1, 500, DIM)
    added_TE = (router(x_TD).logits_TE - x_TD @ router.weight_ED.T).detach()
    assert 0.9 <= float(added_TE.min()) < 0.91
    assert 1.09 < float(added_TE.max()) <= 1.1
    assert float(added_TE.std(-1).min()) > 0  # each expert its own


def test_jitter_is_wider_than_bfloat16_where_x_is_bfloat16():
    """Whose only numbers around 1 are 0.9961, 1 and 1.0078: of few, and with a mean below 1."""
    router = SwitchRouterConfig(jitter=0.01).build(1, 2)
    with torch.no_grad():
        router.weight_ED.copy_(torch.tensor([[1.0], [0.0]]))
    logits_TE = router(torch.ones(1000, 1, dtype=torch.bfloat16)).logits_TE
    assert len(logits_TE[:, 0].unique()) > 900


# --- capacity and what it says of itself -----------------------------------------------------------------------------


def test_a_factor_of_1_25_in_training_and_of_2_in_evaluation():
    router, x_TD = told(SwitchRouterConfig(), torch.tensor([[9.0, 0.0, 0.0, 0.0]]).expand(16, 4))
    assert int(router(x_TD).live_N.sum()) == 5
    assert int(router.eval()(x_TD).live_N.sum()) == 8
    assert load(router(x_TD), 4).tolist() == [16, 0, 0, 0]


def test_what_it_declares():
    config = SwitchRouterConfig()
    assert (config.causal, config.balances_itself, config.edges_per_token(8)) == (True, False, 1)
    assert config.losses(8) == (SwitchLoss(weight=0.01),)
    assert not SwitchRouterConfig(capacity=CapacityConfig(priority="probability")).causal
    assert not SwitchRouterConfig(capacity=CapacityConfig(priority="token")).causal
