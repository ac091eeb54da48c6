"""Dynamic top-p: as many experts as it takes, the one that crosses p included."""

import pytest
import torch
from cases import numbers, same
from hypothesis import given
from hypothesis import strategies as st
from references import losses, variable
from references.edges import choices_of
from routers.examples import DIM, same_routing, sized

from sparsemix import TokenInfo, balance_loss, load
from sparsemix.routers import TopPRouterConfig


def router_of(num_experts: int, **fields):
    return sized(TopPRouterConfig(**fields).build(DIM, num_experts))


def with_probabilities(*rows: list[float], **fields):
    """A routing of tokens with these probabilities."""
    router = TopPRouterConfig(**fields).build(len(rows[0]), len(rows[0])).double()
    torch.nn.init.eye_(router.weight_ED)
    return router(torch.tensor(rows, dtype=torch.float64).log())


def experts_of(routing) -> list[list[int]]:
    num_tokens = len(routing.probs_TE)
    return [routing.expert_N[routing.token_N == t].tolist() for t in range(num_tokens)]


@given(st.integers(0, 5), st.integers(1, 9), st.sampled_from([0.01, 0.4, 0.7, 0.999]), st.booleans())
def test_edges_are_those_of_the_reference_with_their_gradients(num_tokens, num_experts, p, ties):
    router, x_TD = router_of(num_experts, p=p), numbers(1, num_tokens, DIM) * (0 if ties else 1)
    inputs = [x_TD.requires_grad_(), router.weight_ED]
    logits_TE = x_TD @ router.weight_ED.T
    routing = router(x_TD)
    assert routing.edges_per_token is None
    same(routing.logits_TE, logits_TE, "logits")
    same(routing.probs_TE, logits_TE.softmax(-1), "probabilities")
    same_routing(routing, variable.top_p(logits_TE, p), inputs)


@given(st.integers(1, 5), st.integers(1, 6), st.data())
def test_its_losses_are_those_of_the_paper(num_tokens, num_experts, data):
    valid = data.draw(st.lists(st.booleans(), min_size=num_tokens, max_size=num_tokens))
    router, x_TD = router_of(num_experts), numbers(1, num_tokens, DIM)
    routing = router(x_TD, TokenInfo(valid_T=torch.tensor(valid)))
    choices = choices_of(variable.top_p(routing.logits_TE, 0.4), num_tokens)
    expected = 1e-2 * losses.switch_loss(routing.probs_TE, choices, valid)
    expected = expected + 1e-4 * losses.entropy_loss(routing.probs_TE, valid)
    same(balance_loss(routing, router.config.losses(num_experts)), expected)


def test_a_worked_vector():
    """p = 0.4: 0.5 is enough alone; 0.35 is not, and the one that crosses is taken too."""
    routing = with_probabilities([0.3, 0.5, 0.2], [0.35, 0.33, 0.32])
    assert experts_of(routing) == [[1], [0, 1]]
    same(routing.weight_N, torch.tensor([0.5, 0.35, 0.33], dtype=torch.float64))


def test_just_p_is_not_more_than_p():
    routing = with_probabilities([0.25, 0.25, 0.25, 0.25], p=0.5)  # exact in binary
    assert len(experts_of(routing)[0]) == 3


def test_a_sure_token_has_one_expert_and_an_unsure_one_many():
    routing = with_probabilities([0.97, 0.01, 0.01, 0.01], [0.25, 0.25, 0.25, 0.25], p=0.7)
    assert [len(experts) for experts in experts_of(routing)] == [1, 3]


def test_experts_grow_in_number_with_p():
    x_TD = numbers(1, 50, DIM)
    sizes = [len(router_of(8, p=p)(x_TD).token_N) for p in (0.01, 0.2, 0.4, 0.6, 0.8, 0.999)]
    assert sizes[0] == 50
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[2] < sizes[-1]


def test_max_k_keeps_the_best():
    free, capped = (experts_of(router_of(8, p=0.9, max_k=max_k)(numbers(1, 30, DIM))) for max_k in (None, 2))
    probs_TE = router_of(8)(numbers(1, 30, DIM)).probs_TE.detach()
    assert max(map(len, free)) > 2
    for t, experts in enumerate(capped):
        assert set(experts) == set(sorted(free[t], key=lambda e: -float(probs_TE[t, e]))[:2])


def test_a_cap_above_the_number_of_experts_is_no_cap():
    x_TD = numbers(1, 9, DIM)
    assert router_of(3, p=0.9, max_k=99)(x_TD).expert_N.equal(router_of(3, p=0.9)(x_TD).expert_N)


def test_normalised_weights_sum_to_one_and_keep_their_ratios():
    x_TD = numbers(1, 30, DIM)
    raw, normalized = router_of(8, p=0.6)(x_TD), router_of(8, p=0.6, normalize=True)(x_TD)
    assert raw.expert_N.equal(normalized.expert_N)
    sums_T = torch.zeros(30, dtype=torch.float64).index_add(0, raw.token_N, raw.weight_N)
    assert (sums_T > 0.6).all()
    assert (sums_T < 0.999).any()
    same(normalized.weight_N, raw.weight_N / sums_T[raw.token_N])


def test_a_constant_on_all_logits_changes_nothing():
    router, x_TD = router_of(8), numbers(1, 30, DIM)
    x_TD[:, 0] = 1
    before = router(x_TD)
    with torch.no_grad():
        router.weight_ED[:, 0] += 2.0
    after = router(x_TD)
    assert before.expert_N.equal(after.expert_N)
    same(after.weight_N, before.weight_N)


def test_padding_is_neither_live_nor_counted():
    x_TD, valid_T = numbers(1, 6, DIM), torch.tensor([True, False, True, True, False, True])
    padded, alone = router_of(4)(x_TD, TokenInfo(valid_T=valid_T)), router_of(4)(x_TD[valid_T])
    assert padded.live_N.equal(valid_T[padded.token_N])
    assert padded.weight_N[padded.live_N].equal(alone.weight_N)
    assert load(padded, 4).equal(load(alone, 4))


def test_underflown_probabilities_get_no_edge():
    router = TopPRouterConfig(p=0.999).build(2, 2)
    torch.nn.init.eye_(router.weight_ED)
    routing = router(torch.tensor([[500.0, -500.0]]))
    assert routing.expert_N.tolist() == [0]
    assert routing.weight_N.tolist() == [1.0]


def test_counts_assume_no_more_experts_than_there_can_be():
    assert TopPRouterConfig().edges_per_token(8) == 1.76
    assert TopPRouterConfig(max_k=1).edges_per_token(8) == 1
    assert TopPRouterConfig(mean_k=3.0).edges_per_token(2) == 2


def test_one_expert_with_a_weight_of_one_is_refused():
    with pytest.raises(
        ValueError, match=r"max_k: one expert .* no gradient, got max_k=1 with normalize=True; use norm"
    ):
        TopPRouterConfig(max_k=1, normalize=True)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_p_lies_between_none_and_all(p):
    with pytest.raises(ValueError, match=r"p: Input should be .* than"):
        TopPRouterConfig(p=p)
