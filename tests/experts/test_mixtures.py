"""Mixtures of mixtures: a whole layer as an expert."""

import pytest
import references
import torch
from cases import numbers, same
from experts.agreement import filled
from torch.utils.checkpoint import checkpoint

from sparsemix import GLUExpertsConfig, ModuleExperts, MoE, MoEConfig, TokenInfo, TopKRouterConfig, balance_loss
from sparsemix.config import from_json, to_json
from sparsemix.experts import ConcatExperts, CopyExpertsConfig, LSTMExpertsConfig
from sparsemix.layer import MoEExpertsConfig
from sparsemix.routing import flatten

DIM = 4
INSIDE = MoEConfig(num_experts=3, experts=GLUExpertsConfig(hidden=2), routed_scale=2.0)
CONFIG = MoEConfig(num_experts=4, router=TopKRouterConfig(k=2), experts=MoEExpertsConfig(moe=INSIDE))


def glu_of(moe: MoE, e: int):
    return lambda x_D: references.glu(x_D, moe.experts.gate_up_EFD[e], moe.experts.down_EDF[e], "silu")


def one_token(moe: MoE, x_D: torch.Tensor, num_experts: int, function_of) -> torch.Tensor:
    """softmax_topk over the two best, one token through a layer."""
    logits_E = moe.router.weight_ED @ x_D
    chosen = sorted(range(num_experts), key=lambda e: -logits_E[e].item())[:2]
    weights = references.weights("softmax_topk", True, logits_E, chosen)
    return moe.routed_scale * sum(w * function_of(e)(x_D) for e, w in zip(chosen, weights))


def expert_of(moe: MoE):
    def expert(e):
        inside = moe.experts.experts[e]
        return lambda x_D: one_token(inside, x_D, 3, lambda i: glu_of(inside, i))

    return expert


@pytest.mark.parametrize("num_tokens", [1, 7])
def test_value_and_every_gradient_are_those_of_a_loop_over_tokens(num_tokens):
    moe, x_TD = filled(CONFIG.build(DIM)), numbers(50, num_tokens, DIM).requires_grad_()
    y_TD, routing = moe(x_TD)
    expected_TD = torch.stack([one_token(moe, x_D, 4, expert_of(moe)) for x_D in x_TD])
    same(y_TD, expected_TD)
    inputs, upstream = [x_TD, *moe.parameters()], numbers(51, num_tokens, DIM)
    found = torch.autograd.grad((y_TD * upstream).sum(), inputs)
    wanted = torch.autograd.grad((expected_TD * upstream).sum(), inputs, materialize_grads=True)
    for (name, _), one, other in zip([("x", None), *moe.named_parameters()], found, wanted):
        same(one, other, f"gradient of {name}")
    assert sum(len(inner.logits_TE) for inner in routing.inner) == 2 * num_tokens


def test_balance_losses_reach_every_router():
    moe = filled(CONFIG.build(DIM))
    _, routing = moe(numbers(50, 40, DIM))
    balance_loss(routing).backward()
    routers = [moe.router, *(inside.router for inside in moe.experts.experts)]
    assert all((router.weight_ED.grad != 0).any() for router in routers)
    assert [found.logits_TE.shape[1] for found in flatten(routing)] == [4, 3, 3, 3, 3]


def test_there_is_one_inner_routing_a_mixture_whether_it_has_rows_or_not():
    """Sums over micro-batches go routing by routing."""
    moe = filled(CONFIG.build(DIM))
    for info in (None, TokenInfo(valid_T=torch.tensor([False]))):
        y_TD, routing = moe(numbers(50, 1, DIM), info=info)
        sizes = [len(inner.logits_TE) for inner in routing.inner]
        assert sorted(sizes) == ([0, 0, 1, 1] if info is None else [0, 0, 0, 0])
        (y_TD.sum() + balance_loss(routing)).backward()
        assert all(parameter.grad is not None for parameter in moe.parameters())
    _, routing = moe(numbers(50, 0, DIM))
    assert [len(inner.logits_TE) for inner in routing.inner] == [0, 0, 0, 0]


def test_activation_checkpointing_changes_nothing():
    moe, x_TD = filled(CONFIG.build(DIM)), numbers(50, 5, DIM).requires_grad_()
    results = []
    for y_TD, routing in (moe(x_TD), checkpoint(moe, x_TD, use_reentrant=False)):
        results.append(torch.autograd.grad(y_TD.sum() + balance_loss(routing), [x_TD, *moe.parameters()]))
    assert all(one.equal(other) for one, other in zip(*results))


def test_mixtures_and_other_modules_side_by_side():
    inside = INSIDE.build(DIM)
    experts = ModuleExperts([torch.nn.Linear(DIM, DIM), inside, torch.nn.Identity()])
    moe, x_TD = filled(MoE(TopKRouterConfig(k=3).build(DIM, 3), experts)), numbers(50, 5, DIM)
    y_TD, routing = moe(x_TD)
    probs_TE, functions = routing.logits_TE.softmax(-1), [experts.experts[0], lambda x: inside(x)[0], lambda x: x]
    same(y_TD, sum(probs_TE[:, e : e + 1] * function(x_TD) for e, function in enumerate(functions)))
    assert [inner.logits_TE.shape for inner in routing.inner] == [(5, 3)]


def test_routers_are_listed_as_their_routings_are_also_those_of_parts():
    inside = [MoEConfig(num_experts=n, experts=GLUExpertsConfig(hidden=2)).build(DIM) for n in (2, 4)]
    parts = [CopyExpertsConfig().build(DIM, 1), ModuleExperts([inside[0]]), ModuleExperts([inside[1]])]
    moe = MoE(TopKRouterConfig(k=3).build(DIM, 3), ConcatExperts(parts))
    _, routing = moe(torch.randn(5, DIM))
    assert moe.routers() == [moe.router, inside[0].router, inside[1].router]
    assert [found.logits_TE.shape[1] for found in flatten(routing)] == [router.num_experts for router in moe.routers()]


@pytest.mark.parametrize("out_dim", [None, 6])
def test_mixtures_of_sequences_may_be_inside_too(out_dim):
    inside = MoEConfig(num_experts=3, experts=LSTMExpertsConfig(hidden=2), item_dims=2)
    moe = MoEConfig(num_experts=2, experts=MoEExpertsConfig(moe=inside), item_dims=2).build(DIM, out_dim)
    y, routing = moe(torch.randn(5, 7, DIM))
    assert y.shape == (5, 7, out_dim or DIM)
    assert len(flatten(routing)) == 3


def test_configs_that_contain_each_other_go_to_json_and_back_and_complain_in_one_line():
    deeper = MoEConfig(num_experts=2, experts=MoEExpertsConfig(moe=CONFIG))
    assert from_json(MoEConfig, to_json(deeper)) == deeper
    _, routing = deeper.build(DIM, 6)(torch.randn(3, DIM))
    assert len(flatten(routing)) == 1 + 2 * (1 + 4)
    with pytest.raises(ValueError, match=r"^MoEExpertsConfig: moe: [^\n]*$"):
        MoEExpertsConfig(moe=3)
    with pytest.raises(ValueError, match=r"^MoEExpertsConfig: moe: required, got nothing; give it a value$"):
        MoEExpertsConfig()
