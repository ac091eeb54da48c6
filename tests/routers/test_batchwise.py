"""Strictly balanced gating: equal loads in training, learned thresholds in evaluation."""

import math

import pytest
import torch
from cases import numbers, same
from hypothesis import given
from hypothesis import strategies as st
from references import batchwise
from routers.examples import DIM, built, gradient, live_edges, same_edges, told

from sparsemix import GLUExpertsConfig, MoEConfig, TokenInfo, load
from sparsemix.routers import BatchwiseRouterConfig

sizes = st.tuples(st.integers(0, 8), st.integers(1, 5))


def places(num_tokens: int, k: int, num_experts: int) -> int:
    return math.ceil(k * num_tokens / num_experts)


@given(sizes, st.booleans(), st.data())
def test_in_training_edges_and_loss_are_those_of_a_loop(size, ties, data):
    num_tokens, num_experts = size
    k = data.draw(st.integers(1, num_experts))
    logits_TE = numbers(1, num_tokens, num_experts)
    router, x_TD = told(BatchwiseRouterConfig(k=k, threshold_weight=0.5), logits_TE.round() if ties else logits_TE)
    with torch.no_grad():
        router.threshold_E.copy_(numbers(2, num_experts).abs())
    threshold_E = router.threshold_E / num_experts
    m = places(num_tokens, k, num_experts)

    routing = router(x_TD)

    same_edges(routing, batchwise.batchwise(x_TD, m), x_TD)
    expected = batchwise.threshold_loss(batchwise.softmax_rows(x_TD), threshold_E, m) / max(num_tokens, 1) * 0.5
    same(routing.loss, expected, "loss")
    for tensor in (x_TD, router.threshold_E):
        same(gradient(routing.loss, tensor), gradient(expected, tensor), "gradient of the loss")


@given(sizes, st.integers(0, 5))
def test_in_evaluation_edges_are_those_above_the_thresholds(size, seed):
    num_tokens, num_experts = size
    router, x_TD = told(BatchwiseRouterConfig(k=1), numbers(1, num_tokens, num_experts))
    with torch.no_grad():
        router.threshold_E.copy_(2 * numbers(seed, num_experts).abs())
    routing = router.eval()(x_TD)
    same_edges(routing, batchwise.thresholded(x_TD, router.threshold_E.detach() / num_experts), x_TD)
    assert routing.loss is None


def test_a_worked_example():
    """p = [[.7, .3], [.6, .4], [.9, .1], [.2, .8]], k = 1: experts 0 and 1 take the tokens {2, 0} and {3, 1}.

    Thresholds of .5 agree with that but for token 1, which has .6 for expert 0 and .4 for expert 1: the loss is
    ((.6 - .5) - (.4 - .5)) / 4 = 0.05. One token too many is above the one, one too few above the other.
    """
    logits_TE = torch.tensor([[0.7, 0.3], [0.6, 0.4], [0.9, 0.1], [0.2, 0.8]], dtype=torch.float64).log()
    router, x_TD = told(BatchwiseRouterConfig(k=1), logits_TE)
    routing = router(x_TD)
    assert {edge: round(w.item(), 9) for edge, w in live_edges(routing).items()} == dict.fromkeys(
        [(0, 0), (1, 1), (2, 0), (3, 1)], 1.0
    )
    same(routing.loss, torch.tensor(0.05, dtype=torch.float64))
    routing.loss.backward()
    same(router.threshold_E.grad, torch.tensor([-1.0, 1.0], dtype=torch.float64) / 4 / 2)
    assert sorted(live_edges(router.eval()(x_TD))) == [(0, 0), (1, 0), (2, 0), (3, 1)]


@pytest.mark.parametrize(("num_tokens", "k", "num_experts"), [(40, 2, 8), (30, 1, 4), (7, 3, 3), (1, 1, 5)])
def test_in_training_each_expert_takes_k_t_over_e_tokens(num_tokens, k, num_experts):
    router = built(BatchwiseRouterConfig(k=k), num_experts)
    load_E = load(router(0.1 * numbers(1, num_tokens, DIM) + numbers(2, DIM)), num_experts)
    assert load_E.tolist() == [places(num_tokens, k, num_experts)] * num_experts


def test_the_loss_is_not_negative_and_0_exactly_where_both_masks_agree():
    for seed in range(20):
        router, x_TD = told(BatchwiseRouterConfig(k=2), numbers(seed, 12, 4))
        probs_TE = x_TD.detach().softmax(-1)
        top = probs_TE.sort(0, descending=True).values
        with torch.no_grad():
            router.threshold_E.copy_(4 * (top[5] + top[6]) / 2)  # between the last that is taken and the next
        assert router(x_TD).loss.item() == 0
        assert live_edges(router(x_TD)).keys() == live_edges(router.eval()(x_TD)).keys()
        for offset in (0.9, 1.1):
            with torch.no_grad():
                router.threshold_E.copy_(4 * top[5] * offset)
            disagreeing = live_edges(router.train()(x_TD)).keys() != live_edges(router.eval()(x_TD)).keys()
            assert (router.train()(x_TD).loss.item() > 0) == disagreeing


def test_a_threshold_moves_by_how_many_tokens_too_many_are_above_it():
    router, x_TD = told(BatchwiseRouterConfig(k=2), numbers(3, 20, 5))
    training, evaluation = router(x_TD), router.eval()(x_TD)
    training.loss.backward()
    missing_E = load(training, 5) - load(evaluation, 5)
    assert missing_E.any()
    same(router.threshold_E.grad * 5 * 20, missing_E.double())  # of a mean over 20 tokens, in units of 1 / E


def test_thresholds_learn_to_load_experts_as_in_training():
    router, x_TD = built(BatchwiseRouterConfig(k=2), 8), numbers(1, 400, DIM) + 0.5 * numbers(2, DIM)
    before = load(router.eval()(x_TD), 8)
    router.train()
    optimizer = torch.optim.SGD([router.threshold_E], lr=2.0)
    for _ in range(200):
        optimizer.zero_grad()
        router(x_TD).loss.backward()
        optimizer.step()
    after = load(router.eval()(x_TD), 8)
    assert (before - 100).abs().max() > 30
    assert (after - 100).abs().max() <= 5


def test_thresholds_begin_at_the_mean_probability():
    router, x_TD = told(BatchwiseRouterConfig(k=1), numbers(1, 9, 4))
    edges = live_edges(router.eval()(x_TD)).keys()
    assert edges == {(t, e) for t, e in (x_TD.softmax(-1) > 0.25).nonzero().tolist()}


def test_a_token_that_no_expert_takes_goes_nowhere():
    moe = MoEConfig(num_experts=4, router=BatchwiseRouterConfig(k=1), experts=GLUExpertsConfig(hidden=2)).build(DIM)
    x_TD = torch.randn(40, DIM)
    for training in (True, False):
        y_TD, routing = moe.train(training)(x_TD)
        idle_T = torch.bincount(routing.token_N, minlength=40) == 0
        if training:
            assert idle_T.any()
        assert (y_TD[idle_T] == 0).all()
    with torch.no_grad():
        moe.router.threshold_E.fill_(4.0)  # no probability is above 1
    assert (moe(x_TD)[0] == 0).all()


def test_weights_sum_to_1_however_small_the_probabilities():
    """Expert 1 takes token 1, of which it has about 1e-35 and which expert 0 leaves to it."""
    router, x_TD = told(BatchwiseRouterConfig(k=1), torch.tensor([[0.0, -300.0], [0.0, -80.0]]))
    edges = live_edges(router.float()(x_TD.float()))
    assert {edge: weight.item() for edge, weight in edges.items()} == {(0, 0): 1.0, (1, 1): 1.0}


def test_padding_is_neither_taken_nor_in_the_loss():
    router, x_TD = told(BatchwiseRouterConfig(k=1), numbers(1, 8, 4))
    valid_T = torch.tensor([True, False] * 4)
    padded, alone = router(x_TD, TokenInfo(valid_T=valid_T)), router(x_TD[valid_T])
    assert all(t % 2 == 0 for t, _ in live_edges(padded))
    same(padded.loss, alone.loss)
    assert (gradient(padded.loss, x_TD)[~valid_T] == 0).all()


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match=r"^k: must be in 1..num_experts, got k=4 with num_experts=2; lower k"):
        BatchwiseRouterConfig().build(DIM, 2)
    with pytest.raises(ValueError, match=r"threshold_weight: Input should be greater than or equal to 0"):
        BatchwiseRouterConfig(threshold_weight=-1.0)
