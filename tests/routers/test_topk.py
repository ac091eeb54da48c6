"""The top-k router: choices, weights, padding, capacity, noise, jitter, bias, and the precision it keeps."""

import math

import pytest
import references
import torch
from cases import GATES, numbers, same
from hypothesis import given
from hypothesis import strategies as st

from sparsemix import TokenInfo, TopKRouter, TopKRouterConfig, load

DIM = 6


def router_of(num_experts: int, seed: int = 0, **fields) -> TopKRouter:
    """In float64, with logits of size 1."""
    router = TopKRouterConfig(**fields).build(DIM, num_experts).double()
    with torch.no_grad():
        router.weight_ED.copy_(numbers(seed, num_experts, DIM))
    return router


def choosing(choices: list[list[int]], num_experts: int, **fields) -> tuple[TopKRouter, torch.Tensor]:
    """A router and inputs whose tokens choose the given experts, best first, with logits 3, 2, 1, ... and -3."""
    router = TopKRouterConfig(**{"k": len(choices[0]), **fields}).build(num_experts, num_experts).double()
    with torch.no_grad():
        router.weight_ED.copy_(torch.eye(num_experts))
    x_TD = torch.full((len(choices), num_experts), -3.0, dtype=torch.float64)
    for t, chosen in enumerate(choices):
        for j, e in enumerate(chosen):
            x_TD[t, e] = 3.0 - j
    return router, x_TD


def kept(routing, k: int) -> list[tuple[int, int]]:
    """(token, expert) of the live edges."""
    live_N = torch.ones_like(routing.token_N, dtype=torch.bool) if routing.live_N is None else routing.live_N
    return [(int(t), int(e)) for t, e, live in zip(routing.token_N, routing.expert_N, live_N) if live]


# --- choices and weights ---------------------------------------------------------------------------------------------


@given(
    st.integers(0, 5), st.integers(1, 9), st.sampled_from(GATES), st.booleans(), st.booleans(), st.booleans(), st.data()
)
def test_edges_are_the_best_k_with_the_weights_of_the_gate(num_tokens, num_experts, gate, normalize, bias, ties, data):
    k = data.draw(st.integers(1 if gate != "topk_softmax" and not normalize else 2, max(num_experts, 2)))
    if k > num_experts:
        return
    router = router_of(num_experts, k=k, gate=gate, normalize=normalize, bias=bias)
    x_TD = numbers(1, num_tokens, DIM) * (0 if ties else 1)
    if bias:
        router.bias_E.copy_(numbers(2, num_experts))
    logits_TE = x_TD @ router.weight_ED.T

    routing = router(x_TD)

    assert routing.edges_per_token == k
    assert routing.token_N.tolist() == [t for t in range(num_tokens) for _ in range(k)]
    assert routing.live_N is None
    same(routing.logits_TE, logits_TE, "logits")
    for t in range(num_tokens):
        chosen = routing.expert_N[t * k : (t + 1) * k].tolist()
        biased_E = references.scores(gate, logits_TE[t].detach()) + (router.bias_E if bias else 0)
        assert references.is_best_first(biased_E, chosen)
        weights = references.weights(gate, normalize, logits_TE[t], chosen)
        same(routing.weight_N[t * k : (t + 1) * k], torch.stack(weights), "weights")
        same(routing.probs_TE[t], references.distribution(gate, logits_TE[t]), "probs")


@pytest.mark.parametrize(("gate", "normalize"), [("softmax_topk", True), ("topk_softmax", True), ("sigmoid", True)])
def test_normalised_weights_sum_to_one(gate, normalize):
    routing = router_of(8, k=3, gate=gate, normalize=normalize)(numbers(1, 50, DIM))
    same(routing.weight_N.view(50, 3).sum(1), torch.ones(50, dtype=torch.float64))


def test_softmax_then_topk_renormalised_is_topk_then_softmax():
    x_TD = numbers(1, 50, DIM)
    first = router_of(8, k=3, gate="softmax_topk", normalize=True)(x_TD)
    second = router_of(8, k=3, gate="topk_softmax")(x_TD)
    assert first.expert_N.equal(second.expert_N)
    same(first.weight_N, second.weight_N)
    raw = router_of(8, k=3, gate="softmax_topk", normalize=False)(x_TD)
    assert (raw.weight_N.view(50, 3).sum(1) < 0.9999).all()  # without renormalisation they differ


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("normalize", [True, False])
def test_a_constant_on_all_logits_moves_sigmoid_weights_only(gate, normalize):
    router, x_TD = router_of(8, k=3, gate=gate, normalize=normalize), numbers(1, 50, DIM)
    x_TD[:, 0] = 1
    before = router(x_TD)
    with torch.no_grad():
        router.weight_ED[:, 0] += 2.0
    after = router(x_TD)
    assert before.expert_N.equal(after.expert_N)
    if gate == "sigmoid":
        assert float((before.weight_N - after.weight_N).detach().abs().max()) > 1e-3
    else:
        same(after.weight_N, before.weight_N)


@pytest.mark.parametrize("gate", GATES)
def test_ties_give_k_distinct_experts(gate):
    router = router_of(8, k=3, gate=gate)
    torch.nn.init.zeros_(router.weight_ED)
    expert_TK = router(numbers(1, 5, DIM)).expert_N.view(5, 3)
    assert all(len(set(chosen)) == 3 for chosen in expert_TK.tolist())


@pytest.mark.parametrize(
    "fields", [{"gate": "topk_softmax", "normalize": False}, {"gate": "softmax_topk"}, {"gate": "sigmoid"}]
)
def test_one_expert_with_a_constant_weight_is_refused(fields):
    with pytest.raises(ValueError, match=r"gives the router no gradient, got k=1 .*; use gate="):
        TopKRouterConfig(k=1, **fields)


@pytest.mark.parametrize("gate", ["softmax_topk", "sigmoid"])
def test_one_expert_with_its_raw_weight_gives_the_router_gradient(gate):
    router = router_of(4, k=1, gate=gate, normalize=False)
    router(numbers(1, 5, DIM)).weight_N.sum().backward()
    assert float(router.weight_ED.grad.abs().max()) > 1e-3


def test_wrong_sizes_are_named():
    with pytest.raises(ValueError, match=r"^k: must be in 1..num_experts, got k=4 with num_experts=2; lower k"):
        TopKRouterConfig(k=4).build(DIM, 2)
    with pytest.raises(ValueError, match=r"^x: size of axis -1 must be 6, got shape \(3, 5\); pass"):
        TopKRouterConfig().build(DIM, 4)(torch.zeros(3, 5))


# --- padding ---------------------------------------------------------------------------------------------------------


def test_edges_of_padding_are_not_live():
    routing = router_of(4, k=2)(numbers(1, 3, DIM), TokenInfo(valid_T=torch.tensor([True, False, True])))
    assert routing.live_N.tolist() == [True, True, False, False, True, True]


@pytest.mark.parametrize(
    "mask",
    [torch.tensor([1, 0, 1]), torch.tensor([[True, False, True]]), torch.tensor([True, False]), torch.rand(3)],
    ids=["integers", "two axes", "too short", "floats"],
)
def test_a_mask_that_is_not_a_bool_a_token_is_refused(mask):
    with pytest.raises(ValueError, match=r"^info.valid_T: must be bool of shape \(3,\).*; pass mask.bool"):
        router_of(4, k=2)(numbers(1, 3, DIM), TokenInfo(valid_T=mask))


@pytest.mark.parametrize("priority", ["position", "probability"])
def test_padding_takes_no_place_in_an_expert(priority):
    router, x_TD = choosing([[0], [0], [0], [0]], 2, normalize=False, capacity_factor=1.0, priority=priority)
    valid_T = torch.tensor([False, True, False, True])  # capacity ceil(1 * 4 / 2) = 2
    routing = router(x_TD, TokenInfo(valid_T=valid_T))
    assert kept(routing, 1) == [(1, 0), (3, 0)]


# --- capacity --------------------------------------------------------------------------------------------------------


@given(
    st.integers(0, 8), st.integers(2, 5), st.sampled_from([0.01, 0.5, 1.0, 1.3, 100.0]),
    st.sampled_from(["position", "probability"]), st.booleans(), st.data(),
)  # fmt: skip
def test_capacity_keeps_what_being_asked_one_by_one_keeps(num_tokens, num_experts, factor, priority, skewed, data):
    k = data.draw(st.integers(2, num_experts))
    valid = data.draw(st.lists(st.booleans(), min_size=num_tokens, max_size=num_tokens))
    router = router_of(num_experts, k=k, capacity_factor=factor, priority=priority)
    x_TD = numbers(1, num_tokens, DIM)
    if skewed:
        x_TD[:, 0] = 1
        with torch.no_grad():
            router.weight_ED[0, 0] = 9
    routing = router(x_TD, TokenInfo(valid_T=torch.tensor(valid, dtype=torch.bool)))

    choices = routing.expert_N.view(num_tokens, k).tolist()
    weights = routing.weight_N.detach().view(num_tokens, k).tolist()
    limit = max(1, math.ceil(round(factor * num_tokens * k / num_experts, 9)))
    expected = references.served(choices, num_experts, limit, priority, lambda t, j: weights[t][j], valid)
    assert routing.live_N.view(num_tokens, k).tolist() == [
        [(t, j) in expected for j in range(k)] for t in range(num_tokens)
    ]


def test_four_tokens_for_one_expert_with_one_place_keep_the_first():
    router, x_TD = choosing([[0]] * 4, 2, normalize=False, capacity_factor=0.5)
    assert kept(router(x_TD), 1) == [(0, 0)]


def test_a_second_choice_never_takes_the_place_of_a_first():
    router, x_TD = choosing([[0, 1], [2, 1], [1, 2]], 3, capacity_factor=0.5)  # one place an expert
    assert kept(router(x_TD), 2) == [(0, 0), (1, 2), (2, 1)]


def test_by_probability_one_place_goes_to_the_largest_gate():
    router, x_TD = choosing([[0], [0], [1], [0]], 2, normalize=False, capacity_factor=0.5, priority="probability")
    x_TD[1, 0], x_TD[3, 0] = 5.0, 4.0
    assert kept(router(x_TD), 1) == [(1, 0), (2, 1)]


@pytest.mark.parametrize(("priority", "equivariant"), [("probability", True), ("position", False)])
def test_only_the_probability_priority_does_not_see_the_order_of_tokens(priority, equivariant):
    router = router_of(4, k=2, capacity_factor=0.5, priority=priority)
    x_TD, order_T = numbers(1, 12, DIM), torch.randperm(12, generator=torch.Generator().manual_seed(0))
    live = router(x_TD).live_N.view(12, 2)
    assert live[order_T].equal(router(x_TD[order_T]).live_N.view(12, 2)) == equivariant


def test_training_and_evaluation_have_a_capacity_each():
    router, x_TD = choosing([[0]] * 8, 4, normalize=False, capacity_factor=1.0, capacity_factor_eval=2.0)
    assert len(kept(router(x_TD), 1)) == 2
    assert len(kept(router.eval()(x_TD), 1)) == 4
    dropless, x_TD = choosing([[0]] * 8, 4, normalize=False, capacity_factor=1.0)
    assert len(kept(dropless.eval()(x_TD), 1)) == 8


def test_one_token_always_finds_a_place():
    router, x_TD = choosing([[1, 2]], 64, capacity_factor=0.01)
    assert kept(router(x_TD), 2) == [(0, 1), (0, 2)]


def test_dropping_changes_neither_choices_nor_weights():
    x_TD = numbers(1, 12, DIM)
    free, limited = router_of(4, k=2)(x_TD), router_of(4, k=2, capacity_factor=0.3)(x_TD)
    assert not limited.live_N.all()
    assert limited.expert_N.equal(free.expert_N)
    assert limited.weight_N.equal(free.weight_N)
    assert load(limited, 4).equal(load(free, 4))


# --- noise and jitter ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("k", [2, 4])
def test_noisy_routing_is_the_formula_of_2017(gate, k):
    num_experts, x_TD = 4, numbers(1, 9, DIM)
    router = router_of(num_experts, k=k, gate=gate, noise=True)
    with torch.no_grad():
        router.noise_ED.copy_(numbers(2, num_experts, DIM))
    torch.manual_seed(5)
    routing = router(x_TD)
    torch.manual_seed(5)
    noise_TE = torch.randn(9, num_experts, dtype=torch.float64)

    clean_TE = x_TD @ router.weight_ED.T
    scale_TE = torch.log(1 + torch.exp(x_TD @ router.noise_ED.T)) + 0.01
    noisy_TE = clean_TE + noise_TE * scale_TE
    same(routing.logits_TE, clean_TE, "losses read the clean logits")
    for t in range(9):
        same(routing.probs_TE[t], references.distribution(gate, clean_TE[t]), "losses read the clean distribution")
        chosen = routing.expert_N[t * k : (t + 1) * k].tolist()
        assert references.is_best_first(references.scores(gate, noisy_TE[t].detach()), chosen)
        same(routing.weight_N[t * k : (t + 1) * k], torch.stack(references.weights(gate, True, noisy_TE[t], chosen)))
        expected = (
            torch.ones(num_experts, dtype=torch.float64)
            if k == num_experts
            else references.selection_probability(clean_TE[t], noisy_TE[t], scale_TE[t], k)
        )
        same(routing.load_TE[t], expected, "load")


def test_noise_begins_with_deviation_ln_2_and_reaches_its_weights_by_gradient():
    router = TopKRouterConfig(noise=True).build(DIM, 4)
    assert (router.noise_ED == 0).all()
    routing = router(torch.randn(9, DIM))
    (routing.weight_N.square().sum() + routing.load_TE.square().sum()).backward()
    assert (router.noise_ED.grad != 0).any()


@pytest.mark.parametrize("fields", [{"noise": True}, {"jitter": 0.1}])
def test_noise_and_jitter_act_in_training_only(fields):
    router, plain, x_TD = router_of(4, **fields), router_of(4), numbers(1, 9, DIM)
    first, second = router(x_TD), router(x_TD)
    assert not first.weight_N.equal(second.weight_N)
    quiet = router.eval()(x_TD)
    assert quiet.weight_N.equal(plain(x_TD).weight_N)
    assert quiet.logits_TE.equal(plain(x_TD).logits_TE)
    assert quiet.load_TE is None


def test_jitter_leaves_the_mean_of_the_logits():
    router, x_TD = router_of(4, jitter=0.1), numbers(1, 1, DIM).expand(40_000, DIM)
    logits_TE, clean_E = router(x_TD).logits_TE.detach(), (x_TD[0] @ router.weight_ED.T).detach()
    error_E = logits_TE.std(0) / 200
    assert (error_E > 0).all()
    assert ((logits_TE.mean(0) - clean_E).abs() < 4 * error_E).all()


def test_a_router_of_zeros_sends_every_token_to_the_same_experts_unless_there_is_noise():
    fields = {"k": 1, "normalize": False}
    still, noisy = (TopKRouterConfig(noise=noise, **fields).build(DIM, 8) for noise in (False, True))
    for router in (still, noisy):
        torch.nn.init.zeros_(router.weight_ED)
    x_TD = torch.randn(400, DIM)
    assert int(load(still(x_TD), 8).max()) == 400
    assert int(load(noisy(x_TD), 8).max()) < 100


# --- selection bias --------------------------------------------------------------------------------------------------


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


# --- precision -------------------------------------------------------------------------------------------------------


def test_parameters_and_bias_stay_float32_in_a_bfloat16_model():
    router = TopKRouterConfig(noise=True, bias=True).build(DIM, 4)
    for narrow in (torch.nn.Module.bfloat16, torch.nn.Module.half, lambda module: module.to(torch.bfloat16)):
        narrow(router)
        assert {tensor.dtype for tensor in router.state_dict().values()} == {torch.float32}
    router.bias_E.fill_(1.0)
    for _ in range(10):
        router.update(torch.tensor([2, 0, 0, 0]))
    assert torch.allclose(router.bias_E, torch.tensor([0.99, 1.01, 1.01, 1.01]))  # in bfloat16 still 1.0
    routing = router(torch.randn(3, DIM, dtype=torch.bfloat16))
    for tensor in (routing.weight_N, routing.logits_TE, routing.probs_TE):
        assert tensor.dtype == torch.float32
    noisy = TopKRouterConfig(noise=True).build(DIM, 4).bfloat16()
    assert noisy(torch.randn(3, DIM, dtype=torch.bfloat16)).load_TE.dtype == torch.float32


def test_a_selection_bias_leaves_no_chance_of_selection_to_be_told():
    """It is added to scores, the noise to logits: the 2017 formula would give another chance than the true one."""
    routing = router_of(4, noise=True, bias=True)(numbers(1, 3, DIM))
    assert routing.load_TE is None


def test_parameters_are_float32_where_the_model_is_built_in_bfloat16():
    torch.set_default_dtype(torch.bfloat16)
    try:
        router = TopKRouterConfig(noise=True, bias=True).build(DIM, 4)
    finally:
        torch.set_default_dtype(torch.float32)
    assert {tensor.dtype for tensor in router.state_dict().values()} == {torch.float32}


def test_a_float64_router_is_float64_until_it_is_narrowed_to_float32():
    router = router_of(4, noise=True, bias=True)
    assert {tensor.dtype for tensor in router.state_dict().values()} == {torch.float64}
    with torch.autocast("cpu", torch.bfloat16):
        assert router(numbers(1, 3, DIM)).weight_N.dtype == torch.float64
    assert {tensor.dtype for tensor in router.float().state_dict().values()} == {torch.float32}


def test_autocast_changes_nothing():
    router, x_TD = TopKRouterConfig(gate="sigmoid").build(DIM, 4), torch.randn(9, DIM)
    expected = router(x_TD)
    with torch.autocast("cpu", torch.bfloat16):
        routing = router(x_TD)
    assert routing.logits_TE.equal(expected.logits_TE)
    assert routing.weight_N.equal(expected.weight_N)
