"""What routers have in common whose experts choose, or are assigned, the tokens of a whole batch; and hash layers."""

import dataclasses

import pytest
import torch
from cases import numbers, same
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from routers.examples import DIM, built, live_edges

from sparsemix import GLUExpertsConfig, MoEConfig, Routing, TokenInfo, load
from sparsemix.config import from_json, to_json
from sparsemix.routers import (
    BASERouterConfig,
    BatchwiseRouterConfig,
    ExpertChoiceRouterConfig,
    HashRouterConfig,
    SinkhornRouterConfig,
    TokenRoundingRouterConfig,
    TokenSoftmaxConfig,
)

CONFIGS = {
    "expert_choice": ExpertChoiceRouterConfig(),
    "expert_choice_sequence": ExpertChoiceRouterConfig(among="sequence"),
    "expert_choice_runs": ExpertChoiceRouterConfig(group_size=3, capacity_factor=1.0),
    "token_softmax": ExpertChoiceRouterConfig(token_softmax=TokenSoftmaxConfig(), among="sequence"),
    "base": BASERouterConfig(),
    "sinkhorn": SinkhornRouterConfig(),
    "sinkhorn_2": SinkhornRouterConfig(k=2),
    "hash": HashRouterConfig(vocab_size=40, k=2),
    "batchwise": BatchwiseRouterConfig(k=2),
    "token_rounding": TokenRoundingRouterConfig(k=2, tile=3),
}
LEAKS = {  # in training, in evaluation
    "expert_choice": (True, True),
    "expert_choice_sequence": (True, True),
    "expert_choice_runs": (True, True),
    "token_softmax": (True, True),
    "base": (True, False),
    "sinkhorn": (True, False),
    "sinkhorn_2": (True, False),
    "hash": (False, False),
    "batchwise": (True, False),
    "token_rounding": (True, False),
}
E = 4
every = pytest.mark.parametrize("name", CONFIGS)
in_both_modes = pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])


def info_of(num_tokens: int, valid_T: torch.Tensor | None = None) -> TokenInfo:
    """Sequences of five tokens, ids all different."""
    number_T = torch.arange(num_tokens)
    return TokenInfo(valid_T=valid_T, id_T=number_T * 7 % 40, sequence_T=number_T // 5)


def only(info: TokenInfo, kept_T: torch.Tensor) -> TokenInfo:
    return TokenInfo(*(None if field is None else field[kept_T] for field in info))


def weights(routing: Routing) -> torch.Tensor:
    """What gradient flows through, as one vector."""
    parts = [routing.weight_N, *(part for part in (routing.probs_TE, routing.loss) if part is not None)]
    return torch.cat([part.flatten() for part in parts])


@every
@in_both_modes
@settings(max_examples=40)
@given(st.lists(st.booleans(), min_size=1, max_size=14), st.booleans())
def test_padding_changes_nothing_for_valid_tokens(name, training, valid, ties):
    assume(sum(valid) > 1 or "sinkhorn" not in name)  # a plan for one token wants all experts alike
    router = built(CONFIGS[name], E).train(training)
    valid_T = torch.tensor(valid)
    x_TD = numbers(1, len(valid), DIM)
    x_TD = x_TD[:1].expand(len(valid), DIM).clone() if ties else x_TD
    info = info_of(len(valid), valid_T)
    alone = router(x_TD[valid_T], only(info._replace(valid_T=None), valid_T))
    x_TD[~valid_T] = 5 * numbers(2, len(valid), DIM)[~valid_T]
    padded = router(x_TD, info._replace(id_T=info.id_T.where(valid_T, -1)))

    number = valid_T.nonzero().flatten().tolist()
    wanted = {(number[t], e): weight for (t, e), weight in live_edges(alone).items()}
    found = live_edges(padded)
    assert found.keys() == wanted.keys()
    for edge, weight in wanted.items():
        same(found[edge], weight, "weight")
    assert load(padded, E).equal(load(alone, E))
    assert (padded.loss is None) == (alone.loss is None)
    if alone.loss is not None:
        same(padded.loss, alone.loss, "loss")


@every
@in_both_modes
@pytest.mark.parametrize("num_tokens", [0, 1, 2, 11])
@pytest.mark.parametrize("padding", ["none", "all", "some"])
def test_a_layer_runs_forward_and_backward_on_any_batch(name, training, num_tokens, padding):
    moe = MoEConfig(num_experts=E, router=CONFIGS[name], experts=GLUExpertsConfig(hidden=2)).build(DIM).train(training)
    valid_T = {"none": None, "all": torch.zeros(num_tokens).bool(), "some": torch.arange(num_tokens) % 3 == 1}[padding]
    x_TD = torch.randn(num_tokens, DIM, requires_grad=True)
    y_TD, routing = moe(x_TD, info=info_of(num_tokens, valid_T))
    (y_TD.square().sum() + (0 if routing.loss is None else routing.loss)).backward()
    assert x_TD.grad.isfinite().all()
    if valid_T is not None:
        assert (y_TD[~valid_T] == 0).all()
        assert (x_TD.grad[~valid_T] == 0).all()


@every
@in_both_modes
def test_only_routers_that_say_so_let_later_tokens_change_earlier_ones(name, training):
    """The last token changes; whether the weights of those before it do."""
    leaks = False
    for seed in range(20):
        router = built(CONFIGS[name], E, seed=seed).train(training)
        x_TD = numbers(100 + seed, 9, DIM)
        other_TD = x_TD.clone()
        other_TD[-1] = numbers(200 + seed, DIM)
        before, after = (live_edges(router(x, info_of(9))) for x in (x_TD, other_TD))
        before, after = ({edge: w for edge, w in edges.items() if edge[0] < 8} for edges in (before, after))
        leaks |= before.keys() != after.keys() or any(abs(before[edge] - after[edge]) > 1e-9 for edge in before)
    assert leaks == LEAKS[name][not training]
    assert CONFIGS[name].causal == (not any(LEAKS[name]))
    assert built(CONFIGS[name], E).causal == CONFIGS[name].causal


@every
@in_both_modes
def test_routing_is_a_function_of_its_input(name, training):
    router, x_TD = built(CONFIGS[name], E).train(training), numbers(1, 30, DIM)
    first = router(x_TD, info_of(30))
    torch.manual_seed(1)
    second = router(x_TD, info_of(30))
    assert first.expert_N.equal(second.expert_N)
    assert first.token_N.equal(second.token_N)
    assert weights(first).equal(weights(second))


@every
@in_both_modes
def test_edges_lie_by_token_and_no_pair_twice(name, training):
    routing = built(CONFIGS[name], E).train(training)(numbers(1, 30, DIM), info_of(30))
    pairs = list(zip(routing.token_N.tolist(), routing.expert_N.tolist()))
    assert len(set(pairs)) == len(pairs)
    assert routing.token_N.equal(routing.token_N.sort().values)


@every
def test_configs_survive_json_and_bring_no_loss_that_their_routing_cannot_answer(name):
    config = CONFIGS[name]
    layer = MoEConfig(num_experts=E, router=config, experts=GLUExpertsConfig(hidden=2))
    assert from_json(MoEConfig, to_json(layer)) == layer
    assert dataclasses.replace(config) == config
    routing = config.build(DIM, E)(torch.randn(9, DIM), info_of(9))
    assert all(loss(routing).isfinite() for loss in config.losses(E))
    assert config.balances_itself != bool(config.losses(E))


@every
def test_shapes_are_known_without_memory(name):
    with torch.device("meta"):
        router = CONFIGS[name].build(DIM, E)
    sizes = [p.shape for p in router.parameters()]
    assert sizes == [p.shape for p in CONFIGS[name].build(DIM, E).parameters()]
