"""The top-k router: choices, weights, padding, and the precision it keeps."""

import pytest
import references
import torch
from cases import GATES, numbers, same
from hypothesis import given, settings
from hypothesis import strategies as st
from references import deepseek_losses, losses, token_choice
from routers.examples import DIM, gradient, router_of, same_edges, sized

from sparsemix import (
    CapacityConfig,
    SelectionBiasConfig,
    SequenceLoss,
    SwitchLoss,
    TokenInfo,
    TopKRouterConfig,
    ZLoss,
    balance_loss,
)

BIASED = TopKRouterConfig(bias=True, selection_bias=SelectionBiasConfig())

# --- choices and weights ---------------------------------------------------------------------------------------------


@st.composite
def gates(draw):
    """A number of experts, and what a gate may be for these."""
    num_experts, gate = draw(st.integers(1, 9)), draw(st.sampled_from(GATES))
    normalize = draw(st.booleans()) and num_experts > 1
    if num_experts == 1:
        gate = "sigmoid" if gate == "topk_softmax" else gate
    least = 2 if gate == "topk_softmax" or normalize else 1
    return num_experts, {"gate": gate, "normalize": normalize, "k": draw(st.integers(least, num_experts))}


@settings(max_examples=80)
@given(st.integers(0, 5), gates(), st.booleans(), st.booleans())
def test_edges_are_the_best_k_with_the_weights_of_the_gate_and_their_gradients(num_tokens, gate, bias, ties):
    num_experts, fields = gate
    k, name, normalize = fields["k"], fields["gate"], fields["normalize"]
    router = sized(TopKRouterConfig(bias=bias, **fields).build(DIM, num_experts))
    x_TD = (numbers(1, num_tokens, DIM) * (0 if ties else 1)).requires_grad_()
    logits_TE = x_TD @ router.weight_ED.T + (router.bias_E if bias else 0)

    routing = router(x_TD)

    assert routing.edges_per_token == k
    assert routing.token_N.tolist() == [t for t in range(num_tokens) for _ in range(k)]
    assert routing.live_N is None
    same(routing.logits_TE, logits_TE, "logits")
    expected = [routing.weight_N.new_zeros(0)]
    for t in range(num_tokens):
        chosen = routing.expert_N[t * k : (t + 1) * k].tolist()
        assert references.is_best_first(references.scores(name, logits_TE[t].detach()), chosen)
        expected += references.weights(name, normalize, logits_TE[t], chosen)
        same(routing.probs_TE[t], references.distribution(name, logits_TE[t]), "probs")
    expected_N = torch.cat([weight.view(-1) for weight in expected])
    same(routing.weight_N, expected_N, "weights")
    for tensor in (x_TD, *router.parameters()):
        same(gradient(routing.weight_N, tensor), gradient(expected_N, tensor), "gradient of the weights")


@pytest.mark.parametrize(
    ("fields", "reference"),
    [
        ({"gate": "topk_softmax"}, lambda z: token_choice.top_k_softmax(z, 3)),  # Mixtral
        ({"normalize": False}, lambda z: token_choice.softmax_top_k(z, 3, normalize=False)),  # OLMoE
        ({}, lambda z: token_choice.softmax_top_k(z, 3, normalize=True)),  # Qwen3
    ],
    ids=["Mixtral", "OLMoE", "Qwen3"],
)
def test_the_routers_of_known_models(fields, reference):
    router, x_TD = router_of(8, k=3, **fields), numbers(1, 20, DIM).requires_grad_()
    same_edges(router(x_TD), reference(x_TD @ router.weight_ED.T), x_TD)


def test_the_router_of_gpt_oss_has_a_trained_bias_that_takes_part_in_choice_and_weights():
    router, x_TD = sized(TopKRouterConfig(k=4, gate="topk_softmax", bias=True).build(DIM, 8)), numbers(1, 20, DIM)
    edges = token_choice.gpt_oss(x_TD, router.weight_ED, router.bias_E, 4)
    for parameter in router.parameters():
        same_edges(router(x_TD), edges, parameter)
    assert not TopKRouterConfig(bias=True).build(DIM, 8).bias_E.any()  # zero at first


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


@settings(max_examples=60)
@given(
    st.integers(1, 6), st.sampled_from(GATES), st.sampled_from([None, CapacityConfig(factor=0.3)]), st.booleans(),
    st.data(),
)  # fmt: skip
def test_its_losses_are_those_of_its_papers_with_their_gradients(num_tokens, gate, capacity, biased, data):
    """Switch and ST-MoE's, or DeepSeek-V3's of each sequence beside a selection bias; dropping changes none."""
    valid = data.draw(st.lists(st.booleans(), min_size=num_tokens, max_size=num_tokens).filter(any))
    sequence = data.draw(st.lists(st.integers(0, 1), min_size=num_tokens, max_size=num_tokens))
    info = TokenInfo(valid_T=torch.tensor(valid), sequence_T=torch.tensor(sequence))
    selection_bias = SelectionBiasConfig() if biased else None
    router = router_of(5, k=2, gate=gate, capacity=capacity, selection_bias=selection_bias)
    routing = router(numbers(1, num_tokens, DIM), info)
    choices = routing.expert_N.view(num_tokens, 2).tolist()
    probs_TE = torch.stack([references.distribution(gate, z) for z in routing.logits_TE])
    if biased:
        expected = 1e-4 * deepseek_losses.sequence_loss(probs_TE, choices, sequence, valid)
    else:
        expected = 0.01 * losses.switch_loss(probs_TE, choices, valid) + 0.001 * losses.z_loss(routing.logits_TE, valid)
    actual = balance_loss(routing, router.config.losses(5))
    same(actual, expected)
    same(gradient(actual, router.weight_ED), gradient(expected, router.weight_ED), "gradient")


def test_what_it_declares():
    config = TopKRouterConfig(k=3)
    assert (config.causal, config.balances_itself, config.edges_per_token(8)) == (True, False, 3)
    assert config.losses(8) == (SwitchLoss(weight=0.01), ZLoss(weight=0.001))
    assert BIASED.losses(8) == (SequenceLoss(weight=0.0001),)
    for priority in ("position", "token", "probability"):
        capacity = CapacityConfig(priority=priority)
        assert not TopKRouterConfig(k=2, capacity=capacity).causal
        assert TopKRouterConfig(k=1, normalize=False, capacity=capacity).causal == (priority == "position")


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


# --- precision -------------------------------------------------------------------------------------------------------


def test_parameters_and_bias_stay_float32_in_a_bfloat16_model():
    router = BIASED.build(DIM, 4)
    for narrow in (torch.nn.Module.bfloat16, torch.nn.Module.half, lambda module: module.to(torch.bfloat16)):
        narrow(router)
        assert {tensor.dtype for tensor in router.state_dict().values()} == {torch.float32}
    bias_E = router.selection_bias.bias_E.fill_(1.0)
    for _ in range(10):
        router.update(torch.tensor([2, 0, 0, 0]))
    assert torch.allclose(bias_E, torch.tensor([0.99, 1.01, 1.01, 1.01]))  # in bfloat16 still 1.0
    routing = router(torch.randn(3, DIM, dtype=torch.bfloat16))
    for tensor in (routing.weight_N, routing.logits_TE, routing.probs_TE):
        assert tensor.dtype == torch.float32


def test_parameters_are_float32_where_the_model_is_built_in_bfloat16():
    torch.set_default_dtype(torch.bfloat16)
    try:
        router = BIASED.build(DIM, 4)
    finally:
        torch.set_default_dtype(torch.float32)
    assert {tensor.dtype for tensor in router.state_dict().values()} == {torch.float32}


def test_a_float64_router_is_float64_until_it_is_narrowed_to_float32():
    router = BIASED.build(DIM, 4).double()
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
