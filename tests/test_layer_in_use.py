"""What people do to layers: checkpoint, copy, cast, save and train them, and give them one token at a time."""

import copy

import pytest
import torch
from cases import DIM, layer_of, numbers, same
from torch.utils.checkpoint import checkpoint

from sparsemix import (
    CapacityConfig,
    GLUExpertsConfig,
    ImportanceLoss,
    MLPExpertsConfig,
    MoE,
    MoEConfig,
    NoisyTopKRouterConfig,
    SelectionBiasConfig,
    SwitchRouterConfig,
    TokenInfo,
    TopKRouterConfig,
    balance_loss,
)
from sparsemix.experts import ConcatExpertsConfig, ConstantExpertsConfig, CopyExpertsConfig, Part, ZeroExpertsConfig
from sparsemix.kernels import combine

NOISY = NoisyTopKRouterConfig(k=2, capacity=CapacityConfig(factor=1.0))
JITTERY = SwitchRouterConfig(jitter=0.1)
PLAIN = TopKRouterConfig(k=2)
BIASED = TopKRouterConfig(k=2, bias=True, selection_bias=SelectionBiasConfig(), capacity=CapacityConfig(factor=1.0))
ROUTERS = [PLAIN, BIASED, NOISY, JITTERY]
KINDS = (GLUExpertsConfig(hidden=4), ZeroExpertsConfig(), CopyExpertsConfig(), ConstantExpertsConfig())
SEVERAL_KINDS = ConcatExpertsConfig(parts=tuple(Part(experts=kind) for kind in KINDS))


def tensors_of(routing):
    return [field for field in routing if isinstance(field, torch.Tensor)]


@pytest.mark.parametrize("router", ROUTERS)
def test_activation_checkpointing_changes_nothing(router):
    """The routing and its noise are computed again in backward; they must be the same ones."""
    moe, x = layer_of(6, router=router), numbers(50, 2, 5, DIM).requires_grad_()
    losses = [*router.losses(6), ImportanceLoss()]
    info = TokenInfo(sequence_T=torch.arange(10) // 5)
    results = []
    for run in (moe, lambda x, info: checkpoint(moe, x, info=info, use_reentrant=False)):
        torch.manual_seed(3)
        y, routing = run(x, info=info)
        loss = (y * numbers(51, *y.shape)).sum() + balance_loss(routing, losses)
        results.append([y, *tensors_of(routing), *torch.autograd.grad(loss, [x, *moe.parameters()])])
    assert len(results[0]) == len(results[1])
    assert all(one.equal(other) for one, other in zip(*results))


@pytest.mark.parametrize("router", ROUTERS)
def test_forward_leaves_no_trace_in_the_layer(router):
    """A counter in a buffer would count twice under activation checkpointing."""
    moe = layer_of(6, router=router)
    before = copy.deepcopy(moe.state_dict())
    moe(numbers(50, 5, DIM))[0].sum().backward()
    assert all(tensor.equal(before[name]) for name, tensor in moe.state_dict().items())


def test_functional_call_uses_the_given_parameters():
    moe, x = layer_of(4), numbers(50, 5, DIM)
    given = {name: torch.zeros_like(parameter) for name, parameter in moe.named_parameters() if "down" in name}
    assert (torch.func.functional_call(moe, given, (x,))[0] == 0).all()
    assert (moe(x)[0] != 0).all()


@pytest.mark.parametrize(
    "experts", [GLUExpertsConfig(hidden=4), MLPExpertsConfig(hidden=4), MLPExpertsConfig(hidden=4, bias=True)]
)
def test_a_state_dict_and_a_deep_copy_give_the_same_layer(experts):
    fields = {"router": BIASED, "experts": experts, "shared": experts, "shared_gate": True}
    moe, x = layer_of(4, **fields), numbers(50, 5, DIM)
    moe.router.update(torch.tensor([5, 2, 2, 1]))
    loaded = MoEConfig(num_experts=4, **fields).build(DIM).double()
    loaded.load_state_dict(moe.state_dict())
    copied = copy.deepcopy(moe)
    for twin in (loaded, copied):
        assert twin.eval()(x)[0].equal(moe.eval()(x)[0])
    with torch.no_grad():
        next(copied.experts.parameters()).zero_()
    assert not copied(x)[0].equal(moe(x)[0])


@pytest.mark.parametrize("router", ROUTERS)
@pytest.mark.parametrize("experts", [GLUExpertsConfig(hidden=4), MLPExpertsConfig(hidden=4, bias=True)])
def test_a_bfloat16_layer_trains_with_a_float32_router(router, experts):
    moe = layer_of(4, dim=8, router=router, experts=experts, shared=experts, shared_gate=True, dtype=torch.bfloat16)
    x = numbers(50, 2, 5, 8).bfloat16().requires_grad_()
    y, routing = moe(x)
    (y.float().sum() + balance_loss(routing)).backward()
    assert y.dtype == x.grad.dtype == torch.bfloat16
    assert routing.weight_N.dtype == routing.logits_TE.dtype == torch.float32
    for name, parameter in moe.named_parameters():
        expected = torch.float32 if name.startswith("router.") else torch.bfloat16
        assert parameter.dtype == parameter.grad.dtype == expected, name
        assert parameter.grad.isfinite().all()


@pytest.mark.parametrize("router", ROUTERS)
@pytest.mark.parametrize("experts", [GLUExpertsConfig(hidden=4), MLPExpertsConfig(hidden=4, bias=True)])
def test_autocast_runs_experts_in_bfloat16_and_the_router_in_float32(router, experts):
    moe = layer_of(4, dim=8, router=router, experts=experts, shared=experts, shared_gate=True, dtype=torch.float32)
    x = numbers(50, 2, 5, 8).float().requires_grad_()
    torch.manual_seed(0)
    expected, plain = moe(x)
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        y, routing = moe(x)
        loss = y.float().square().mean() + balance_loss(routing)
    loss.backward()
    assert y.dtype == torch.bfloat16
    assert routing.logits_TE.equal(plain.logits_TE)
    assert routing.weight_N.equal(plain.weight_N)
    assert routing.expert_N.equal(plain.expert_N)
    scale = float(expected.detach().abs().max())
    same(y.float() / scale, expected / scale, "rounded to bfloat16", tolerance=0.05)
    for tensor in (x, *moe.parameters()):
        assert tensor.grad.dtype == torch.float32
        assert tensor.grad.isfinite().all()


@pytest.mark.parametrize("training", [True, False])
def test_one_token_survives_the_smallest_capacity(training):
    router = TopKRouterConfig(k=2, capacity=CapacityConfig(factor=0.01, factor_eval=0.01))
    moe, x = layer_of(64, router=router).train(training), numbers(50, 1, 1, DIM)
    y, routing = moe(x)
    assert routing.live_N.all()
    same(y, layer_of(64)(x)[0])


def test_the_layer_saves_nothing_of_n_by_d():
    """Five tokens of width 7, three experts each, hidden 11: no gathered input, no expert output, no activation."""
    moe = layer_of(4, dim=7, router=TopKRouterConfig(k=3), experts=GLUExpertsConfig(hidden=11))
    saved, parameters = [], {parameter.data_ptr() for parameter in moe.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        moe(numbers(50, 5, 7).requires_grad_())
    shapes = [tuple(t.shape) for t in saved if t.is_floating_point() and t.data_ptr() not in parameters]
    assert sum(shape[0] for shape in shapes if shape[1:] == (22,)) == 15  # the pre-activation, in pieces
    assert {shape[1:] for shape in shapes if len(shape) > 1 and shape[0] != 5} == {(22,)}
    assert (5, 7) in shapes


def test_a_loop_with_balance_loss_trains_and_balances():
    moe = MoEConfig(
        num_experts=4, router=TopKRouterConfig(k=1, normalize=False), experts=GLUExpertsConfig(hidden=8)
    ).build(4)
    optimizer = torch.optim.Adam(moe.parameters(), lr=0.02)
    x, first = torch.randn(256, 4), None
    target = torch.sin(2 * x)
    for _ in range(100):
        y, routing = moe(x)
        loss = (y - target).square().mean()
        first = loss.item() if first is None else first
        optimizer.zero_grad()
        (loss + balance_loss(routing)).backward()
        optimizer.step()
    assert loss.item() < 0.5 * first
    assert torch.bincount(routing.expert_N, minlength=4).min() > 0


@pytest.mark.parametrize("capacity", [None, CapacityConfig(factor_eval=0.1)])
@pytest.mark.parametrize("valid", [None, True, False])
@pytest.mark.parametrize("experts", [GLUExpertsConfig(hidden=4), MLPExpertsConfig(hidden=4, bias=True)])
def test_one_token_without_gradient_is_what_it_is_with(experts, valid, capacity):
    router = TopKRouterConfig(k=3, capacity=capacity)
    moe, x_TD = layer_of(5, experts=experts, router=router, shared=experts).eval(), numbers(60, 1, DIM)
    info = None if valid is None else TokenInfo(valid_T=torch.tensor([valid]))
    expected, routing = moe(x_TD, info=info)
    with torch.no_grad():
        actual, again = moe(x_TD, info=info)
    same(actual, expected.detach())
    same(again.weight_N, routing.weight_N.detach())
    assert not actual.requires_grad


@pytest.mark.parametrize("experts", [GLUExpertsConfig(hidden=4), SEVERAL_KINDS], ids=lambda config: config.type)
def test_one_token_is_not_sorted(monkeypatch, experts):
    monkeypatch.setattr("sparsemix.layer.sort_by_expert", None)
    moe = layer_of(4, experts=experts, router=TopKRouterConfig(k=4))
    with torch.no_grad():
        moe(numbers(60, 1, DIM))
        with pytest.raises(TypeError):
            moe(numbers(60, 2, DIM))


class Doubling(torch.nn.Module):
    """Experts that double a token, as often as it is sent to one."""

    num_experts = 3

    def forward(self, x_TD, dispatch):
        return combine(2 * x_TD[dispatch.token_N], dispatch, len(x_TD)), ()


class DoublingOne(Doubling):
    """And take an odd token that is alone without a dispatch."""

    def one_token(self, x_1D, routing):
        return 2 * len(routing.expert_N) * x_1D if x_1D[0, 0] % 2 else None


@pytest.mark.parametrize(("experts", "sizes_sorted"), [(Doubling(), [1, 2, 1]), (DoublingOne(), [1, 2])])
def test_experts_of_ones_own_take_a_lone_token_if_they_say_so(experts, sizes_sorted):
    moe, seen = MoE(layer_of(3).router, experts), []
    experts.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    for x_TD in (torch.zeros(1, DIM), torch.ones(2, DIM), torch.ones(1, DIM)):
        y_TD, routing = moe(x_TD.double())
        assert y_TD.equal(4.0 * x_TD.double())
        assert routing.inner == ()
    assert seen == sizes_sorted


def test_one_token_is_sorted_for_a_back_end_that_was_asked_for(monkeypatch):
    monkeypatch.setattr("sparsemix.layer.sort_by_expert", None)
    moe = layer_of(3, experts=GLUExpertsConfig(hidden=4, backend="reference"))
    with torch.no_grad(), pytest.raises(TypeError):
        moe(numbers(60, 1, DIM))
