"""Expert choice: columns of equal size, weights that are not renormalised, and the softmax over tokens."""

import math
from functools import partial

import pytest
import torch
from cases import numbers, same
from hypothesis import given
from hypothesis import strategies as st
from references import edges, expert_choice
from routers.examples import DIM, built, gradient, live_edges, same_edges, told

from sparsemix import GLUExpertsConfig, MoEConfig, TokenInfo, TopKRouterConfig, balance_loss
from sparsemix.routers import ExpertChoiceRouterConfig, TokenSoftmaxConfig

sizes = st.tuples(st.integers(0, 9), st.integers(1, 5))


def share(num_tokens: int, factor: float, num_experts: int) -> int:
    return math.ceil(round(num_tokens * factor / num_experts, 6))


def parts_of(group: list[int], valid: list[bool], size: int) -> list[list[int]]:
    members = [[t for t in range(len(group)) if group[t] == g and valid[t]] for g in sorted(set(group))]
    return [part[start : start + size] for part in members for start in range(0, len(part), size)]


@given(
    sizes, st.floats(0.25, 1), st.booleans(), st.sampled_from(["batch", "sequence"]), st.none() | st.just(2), st.data()
)
def test_edges_are_those_of_a_loop_over_experts(size, part, ties, among, group_size, data):
    num_tokens, num_experts = size
    factor = part * num_experts
    valid = data.draw(st.lists(st.booleans(), min_size=num_tokens, max_size=num_tokens))
    sequence = data.draw(st.lists(st.integers(0, 2), min_size=num_tokens, max_size=num_tokens))
    parts = parts_of(sequence if among == "sequence" else [0] * num_tokens, valid, group_size or num_tokens)
    logits_TE = numbers(1, num_tokens, num_experts)
    logits_TE = logits_TE.round() if ties else logits_TE
    config = ExpertChoiceRouterConfig(capacity_factor=factor, among=among, group_size=group_size)
    router, x_TD = told(config, logits_TE)

    routing = router(x_TD, TokenInfo(valid_T=torch.tensor(valid).bool(), sequence_T=torch.tensor(sequence).long()))

    def chosen(rows: list[int]) -> list:
        return expert_choice.expert_choice(x_TD[rows], share(len(rows), factor, num_experts))

    same_edges(routing, edges.apart(chosen, parts), x_TD)
    same(routing.logits_TE, x_TD)
    same(routing.probs_TE, x_TD.softmax(-1))


@given(sizes, st.floats(0.25, 1), st.booleans())
def test_a_softmax_over_tokens_gives_the_edges_and_the_loss_of_a_loop(size, part, ties):
    num_tokens, num_experts = size
    factor = part * num_experts
    logits_TE = numbers(1, num_tokens, num_experts)
    config = ExpertChoiceRouterConfig(capacity_factor=factor, token_softmax=TokenSoftmaxConfig(uniformity_weight=0.5))
    router, x_TD = told(config, logits_TE.round() if ties else logits_TE)
    routing = router(x_TD)
    same_edges(routing, expert_choice.expert_choice_over_tokens(x_TD, share(num_tokens, factor, num_experts)), x_TD)
    expected = 0.5 * expert_choice.token_uniformity_loss(x_TD)
    same(routing.loss, expected, "loss")
    same(gradient(routing.loss, x_TD), gradient(expected, x_TD), "gradient of the loss")
    assert routing.probs_TE is None  # its rows would not sum to 1


def test_of_several_sequences_the_uniformity_loss_is_the_mean_over_tokens():
    config = ExpertChoiceRouterConfig(among="sequence", token_softmax=TokenSoftmaxConfig(uniformity_weight=1.0))
    router, x_TD = told(config, numbers(1, 7, 3))
    routing = router(x_TD, TokenInfo(sequence_T=torch.tensor([0, 0, 1, 0, 1, 0, 0])))
    first, second = (expert_choice.token_uniformity_loss(x_TD[rows]) for rows in ([0, 1, 3, 5, 6], [2, 4]))
    same(routing.loss, (5 * first + 2 * second) / 7)
    same(balance_loss(routing, ()), routing.loss)


def test_the_uniformity_loss_is_1_where_all_tokens_are_wanted_alike_and_n_where_one_is():
    config = ExpertChoiceRouterConfig(token_softmax=TokenSoftmaxConfig(uniformity_weight=1.0))
    one = torch.full((6, 4), -1000.0)
    one[2] = 0
    for logits_TE, expected in ((torch.zeros(6, 4), 1.0), (one, 6.0)):
        router, x_TD = told(config, logits_TE)
        assert router(x_TD).loss.item() == pytest.approx(expected)


def test_a_worked_example():
    """Four tokens, two experts, one expert a token on average: each takes two, token 3 nobody."""
    logits_TE = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.5, 0.5]]).log()
    router, x_TD = told(ExpertChoiceRouterConfig(capacity_factor=1.0), logits_TE)
    found = {edge: round(weight.item(), 6) for edge, weight in live_edges(router(x_TD)).items()}
    assert found == {(0, 0): 0.9, (2, 0): 0.6, (1, 1): 0.8, (3, 1): 0.5}


@given(st.integers(0, 40), st.integers(1, 8), st.floats(0.1, 1))
def test_each_column_has_the_same_count(num_tokens, num_experts, part):
    config = ExpertChoiceRouterConfig(capacity_factor=part * num_experts)
    routing = built(config, num_experts)(numbers(1, num_tokens, DIM))
    expected = share(num_tokens, config.capacity_factor, num_experts)
    assert torch.bincount(routing.expert_N, minlength=num_experts).tolist() == [expected] * num_experts


def test_with_as_many_experts_a_token_as_there_are_it_is_the_dense_softmax_mixture():
    moe = MoEConfig(
        num_experts=4, router=ExpertChoiceRouterConfig(capacity_factor=4.0), experts=GLUExpertsConfig(hidden=3)
    )
    dense = TopKRouterConfig(k=4, normalize=False)
    layer, twin = (MoEConfig(num_experts=4, router=r, experts=moe.experts).build(DIM) for r in (moe.router, dense))
    twin.load_state_dict(layer.state_dict())
    x_TD = torch.randn(9, DIM)
    same(layer(x_TD)[0], twin(x_TD)[0], tolerance=1e-6)


def outputs_changed_by_the_last_token(router_config) -> list[int]:
    moe = MoEConfig(num_experts=3, router=router_config, experts=GLUExpertsConfig(hidden=2)).build(DIM).double()
    with torch.no_grad():
        moe.router.weight_ED.copy_(numbers(1, 3, DIM))
    x_TD = numbers(2, 12, DIM)
    other_TD = torch.cat([x_TD[:-1], 9 * numbers(3, 1, DIM)])
    return (moe(x_TD)[0] - moe(other_TD)[0]).abs().amax(-1).gt(1e-9).nonzero().flatten().tolist()


def test_the_last_token_changes_outputs_of_earlier_ones_and_of_none_under_token_choice():
    assert len(outputs_changed_by_the_last_token(ExpertChoiceRouterConfig(capacity_factor=1.0))) > 1
    assert outputs_changed_by_the_last_token(TopKRouterConfig(k=1, normalize=False)) == [11]


def test_a_token_that_nobody_takes_has_no_output():
    moe = MoEConfig(
        num_experts=2, router=ExpertChoiceRouterConfig(capacity_factor=0.25), experts=GLUExpertsConfig(hidden=2)
    ).build(DIM)
    y_TD, routing = moe(torch.randn(16, DIM))
    idle_T = torch.bincount(routing.token_N, minlength=16) == 0
    assert idle_T.sum() >= 12
    assert (y_TD[idle_T] == 0).all()
    assert (y_TD[~idle_T] != 0).any()


def test_sequences_do_not_see_each_other():
    router = built(ExpertChoiceRouterConfig(among="sequence"), 4)
    x_TD, sequence_T = numbers(1, 10, DIM), torch.arange(10) // 5
    before = live_edges(router(x_TD, TokenInfo(sequence_T=sequence_T)))
    x_TD[5:] = numbers(2, 5, DIM)
    after = live_edges(router(x_TD, TokenInfo(sequence_T=sequence_T)))
    assert {edge for edge in before if edge[0] < 5} == {edge for edge in after if edge[0] < 5}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"capacity_factor": 3.0}, r"^capacity_factor: must be at most num_experts, got 3.0 with num_experts=2; lower"),
        ({"capacity_factor": 0.0}, r"capacity_factor: Input should be greater than 0, got 0.0"),
        ({"group_size": 0}, r"group_size: Input should be greater than or equal to 1, got 0; correct the value"),
    ],
)
def test_impossible_settings_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        ExpertChoiceRouterConfig(**config).build(DIM, 2)


def test_among_sequences_needs_to_know_them():
    route = partial(ExpertChoiceRouterConfig(among="sequence").build(DIM, 2), torch.zeros(3, DIM))
    with pytest.raises(ValueError, match=r"^info.sequence_T: is needed by expert choice among a sequence's tokens"):
        route()
