"""The selection bias: it takes part in the choice, not in the weights, and balances the load."""

import pytest
import torch
from cases import GATES, numbers, same
from hypothesis import given, settings
from hypothesis import strategies as st
from references import gates, token_choice, updates
from routers.examples import DIM, router_of, same_edges

from sparsemix import SelectionBiasConfig, TokenInfo, TopKRouterConfig, load

RULES = ["sign", "proportional"]
FORMS = ["additive", "multiplicative"]


def biased(num_experts: int, rate: float = 0.001, rule: str = "sign", form: str = "additive", **fields):
    """A top-k router with a selection bias."""
    return router_of(num_experts, selection_bias=SelectionBiasConfig(rate=rate, rule=rule, form=form), **fields)


def scores_of(gate: str, logits_TE):
    return torch.stack([gates.scores(gate, z) for z in logits_TE]) if len(logits_TE) else logits_TE


# --- what it does to a routing ---------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    st.integers(0, 5), st.integers(2, 7), st.sampled_from(["softmax_topk", "sigmoid"]), st.booleans(),
    st.sampled_from(FORMS), st.data(),
)  # fmt: skip
def test_choices_are_by_score_and_bias_and_weights_by_score_alone(num_tokens, num_experts, gate, normalize, form, data):
    k = data.draw(st.integers(1 + normalize, num_experts))
    router = biased(num_experts, form=form, gate=gate, normalize=normalize, k=k)
    router.selection_bias.bias_E.copy_(numbers(2, num_experts))
    x_TD = numbers(1, num_tokens, DIM).requires_grad_()
    routing, logits_TE = router(x_TD), x_TD @ router.weight_ED.T
    bias_E, by_product = router.selection_bias.bias_E, form == "multiplicative"
    edges = token_choice.biased_top_k(scores_of(gate, logits_TE), bias_E, k, normalize, multiplicative=by_product)
    same_edges(routing, edges, x_TD)
    assert routing.expert_N.tolist() == [edge.expert for edge in edges]
    plain = router_of(num_experts, gate=gate, normalize=normalize, k=k)(x_TD)
    same(routing.probs_TE, plain.probs_TE, "losses read the distribution without it")
    assert routing.logits_TE.equal(plain.logits_TE)


@pytest.mark.parametrize("gate", GATES)
def test_an_expert_with_a_large_bias_is_chosen_by_all_at_the_weight_it_deserves(gate):
    router, x_TD = biased(6, k=2, gate=gate), numbers(1, 20, DIM)
    router.selection_bias.bias_E[3] = 100
    routing = router(x_TD)
    assert (routing.expert_N.view(20, 2)[:, 0] == 3).all()
    for t in range(20):
        chosen = routing.expert_N[2 * t : 2 * t + 2].tolist()
        expected = torch.stack(gates.weights(gate, True, routing.logits_TE[t], chosen))
        same(routing.weight_N[2 * t : 2 * t + 2], expected)


@pytest.mark.parametrize("gate", GATES)
def test_a_constant_on_all_biases_changes_nothing(gate):
    router, x_TD = biased(6, k=2, gate=gate), numbers(1, 20, DIM)
    router.selection_bias.bias_E.copy_(numbers(2, 6))
    before = router(x_TD)
    router.selection_bias.bias_E.sub_(7.0)  # below zero as well
    after = router(x_TD)
    assert before.expert_N.equal(after.expert_N)
    assert before.weight_N.equal(after.weight_N)


@pytest.mark.parametrize("gate", ["softmax_topk", "sigmoid"])
def test_a_common_factor_on_all_multiplicative_biases_changes_nothing(gate):
    router, x_TD = biased(6, k=2, gate=gate, form="multiplicative"), numbers(1, 20, DIM)
    router.selection_bias.bias_E.copy_(numbers(2, 6).abs() + 0.1)
    before = router(x_TD)
    router.selection_bias.bias_E.mul_(3.0)
    assert before.expert_N.equal(router(x_TD).expert_N)


@pytest.mark.parametrize("form", FORMS)
def test_at_first_it_changes_nothing(form):
    x_TD = numbers(1, 20, DIM)
    routing, plain = biased(6, k=2, form=form)(x_TD), router_of(6, k=2)(x_TD)
    assert routing.expert_N.equal(plain.expert_N)
    assert routing.weight_N.equal(plain.weight_N)


@pytest.mark.parametrize("form", FORMS)
def test_it_is_saved_but_not_trained(form):
    router = biased(4, form=form)
    assert "selection_bias.bias_E" in router.state_dict()
    assert [name for name, _ in router.named_parameters()] == ["weight_ED"]
    assert not router.selection_bias.bias_E.requires_grad
    router(numbers(1, 5, DIM)).weight_N.sum().backward()
    assert router.selection_bias.bias_E.grad is None


def test_scores_that_may_be_negative_are_not_multiplied():
    with pytest.raises(ValueError, match=r"selection_bias.form: multiplies scores, which must not be negative, got"):
        TopKRouterConfig(gate="topk_softmax", selection_bias=SelectionBiasConfig(form="multiplicative"))


# --- how it follows the load -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@given(load=st.lists(st.integers(0, 50), min_size=1, max_size=9))
def test_a_step_is_that_of_the_reference(form, load):
    load_E = torch.tensor(load)
    for rule in RULES:
        bias = SelectionBiasConfig(rate=0.01, rule=rule, form=form).build(len(load)).double()
        before_E = bias.bias_E.copy_(numbers(3, len(load))).clone()
        bias.update(load_E)
        if rule == "sign":
            expected_E = updates.bias_by_sign(before_E, load, 0.01)
        elif sum(load) == 0:
            expected_E = before_E
        else:  # relative to the mean load
            expected_E = updates.bias_by_violation(before_E, load, 0.01 * len(load) / sum(load))
        same(bias.bias_E, expected_E)


@pytest.mark.parametrize(
    ("rule", "form", "rate"),
    [("sign", "additive", 0.01), ("proportional", "additive", 0.01), ("sign", "multiplicative", 0.01)],
)
def test_it_balances_a_skewed_load_within_its_bound(rule, form, rate):
    steps = 300
    bias = SelectionBiasConfig(rate=rate, rule=rule, form=form)
    router = TopKRouterConfig(k=2, gate="sigmoid", selection_bias=bias).build(DIM, 8)
    first_E = router.selection_bias.bias_E.clone()
    x_TD = torch.randn(2048, DIM)
    x_TD[:, 0] = 1
    with torch.no_grad():
        router.weight_ED[:, 0] = torch.linspace(-0.5, 0.5, 8)
        router.weight_ED[:, 1:].normal_(std=0.3)

    def violation() -> float:
        return updates.max_violation([load(router(x_TD), 8).tolist()])

    before = violation()
    for step in range(1, steps + 1):
        router.update(router.statistic(router(x_TD)))
        if rule == "sign":
            assert float((router.selection_bias.bias_E - first_E).abs().max()) <= rate * step + 1e-5
    assert before > 0.5
    assert violation() < 0.1


def test_the_proportional_rule_leaves_the_mean_of_the_biases():
    bias = SelectionBiasConfig(rate=0.1, rule="proportional").build(5).double()
    for number in range(20):
        bias.update(numbers(number, 5).abs().mul(100).long())
    assert float(bias.bias_E.abs().max()) > 0.1
    assert abs(float(bias.bias_E.mean())) < 1e-12


@pytest.mark.parametrize("rule", RULES)
def test_no_token_is_no_reason_to_move(rule):
    bias = SelectionBiasConfig(rule=rule).build(5)
    bias.update(torch.zeros(5, dtype=torch.int64))
    assert not bias.bias_E.any()


def test_the_statistic_adds_up_over_micro_batches_and_counts_no_padding():
    router, x_TD = biased(4), numbers(1, 10, DIM)
    whole = router.statistic(router(x_TD))
    parts = router.statistic(router(x_TD[:3])) + router.statistic(router(x_TD[3:]))
    assert whole.equal(parts)
    padded = torch.cat([x_TD, numbers(2, 5, DIM)])
    info = TokenInfo(valid_T=torch.arange(15) < 10)
    assert router.statistic(router(padded, info)).equal(whole)
    assert router_of(4).statistic(router_of(4)(x_TD)) is None
