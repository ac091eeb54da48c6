"""Recurrent networks made of mixtures: against loops over tokens and steps, and what their routing says."""

import pytest
import references
import torch
from cases import numbers, same

from sparsemix import GLUExpertsConfig, MLPExpertsConfig, MoEConfig, TopKRouterConfig, balance_loss
from sparsemix.config import from_json, to_json
from sparsemix.models.recurrent import MoELSTMConfig, MoERNNConfig
from sparsemix.routing import load

BATCH, LENGTH, DIM, HIDDEN = 2, 5, 3, 4
MOE = MoEConfig(num_experts=4, router=TopKRouterConfig(k=2), experts=MLPExpertsConfig(hidden=3, bias=True))
CONFIGS = [MoERNNConfig(hidden=HIDDEN, moe=MOE), MoELSTMConfig(hidden=HIDDEN, moe=MOE)]
EITHER = pytest.mark.parametrize("config", CONFIGS, ids=["rnn", "lstm"])


def network(config):
    """In float64, and no parameter zero."""
    built = config.build(DIM).double()
    with torch.no_grad():
        for i, parameter in enumerate(built.parameters()):
            parameter.copy_(numbers(i, *parameter.shape))
    return built


def mixture(moe, x_D):
    """softmax_topk over the two best, for one token."""
    logits_E, own = moe.router.weight_ED @ x_D, list(moe.experts.parameters())
    chosen = sorted(range(4), key=lambda e: -logits_E[e].item())[:2]
    weights = references.weights("softmax_topk", True, logits_E, chosen)
    outputs = [references.mlp(x_D, own[0][e], own[1][e], "relu", own[2][e], own[3][e]) for e in chosen]
    return sum(weight * output for weight, output in zip(weights, outputs))


def loop(built, x_SD):
    """One sequence, step by step; h of each step and the last c."""
    h = c = x_SD.new_zeros(HIDDEN)
    rows = []
    for x_D in x_SD:
        y = mixture(built.moe, torch.cat([x_D, h]))
        if isinstance(built.config, MoERNNConfig):
            h = torch.tanh(y)
        else:
            i, f, g, o = y.chunk(4)
            c = references.sigmoid(f) * c + references.sigmoid(i) * torch.tanh(g)
            h = references.sigmoid(o) * torch.tanh(c)
        rows.append(h)
    return torch.stack(rows), c


@EITHER
def test_value_state_and_every_gradient_are_those_of_a_loop_over_steps(config):
    built, x_BSD = network(config), numbers(50, BATCH, LENGTH, DIM).requires_grad_()
    y_BSH, state, _ = built(x_BSD)
    expected, last_c = (torch.stack(parts) for parts in zip(*(loop(built, x_SD) for x_SD in x_BSD)))
    same(y_BSH, expected)
    if isinstance(config, MoERNNConfig):
        same(state, expected[:, -1])
    else:
        same(state[0], expected[:, -1])
        same(state[1], last_c)
    inputs, upstream = [x_BSD, *built.parameters()], numbers(51, BATCH, LENGTH, HIDDEN)
    found = torch.autograd.grad((y_BSH * upstream).sum(), inputs)
    wanted = torch.autograd.grad((expected * upstream).sum(), inputs)
    for (name, _), one, other in zip([("x", None), *built.named_parameters()], found, wanted):
        same(one, other, f"gradient of {name}")


@EITHER
def test_a_sequence_may_be_continued(config):
    built, x_BSD = network(config), numbers(50, BATCH, LENGTH, DIM)
    whole, last, _ = built(x_BSD)
    first, state, _ = built(x_BSD[:, :2])
    second, state, _ = built(x_BSD[:, 2:], state)
    same(torch.cat([first, second], dim=1), whole)
    for one, other in zip(state, last):
        same(one, other)


@EITHER
@pytest.mark.parametrize("on_the_left", [False, True])
def test_padding_leaves_the_state_and_the_losses_alone(config, on_the_left):
    built, x_BSD = network(config), numbers(50, BATCH, LENGTH, DIM)
    valid_BS = torch.ones(BATCH, LENGTH, dtype=torch.bool)
    own = slice(2, LENGTH) if on_the_left else slice(0, 3)
    valid_BS[1] = False
    valid_BS[1, own] = True

    y_BSH, state, routing = built(x_BSD, valid_BS=valid_BS)

    (whole, whole_state, one), (short, short_state, other) = (built(x_BSD[:1]), built(x_BSD[1:, own]))
    same(y_BSH[:1], whole)
    same(y_BSH[1:, own], short)
    for last, first, second in zip(tensors_of(state), tensors_of(whole_state), tensors_of(short_state)):
        same(last, torch.cat([first, second]))
    assert load(routing, 4).equal(load(one, 4) + load(other, 4))


def tensors_of(state):
    return [state] if isinstance(state, torch.Tensor) else state


@EITHER
def test_the_routing_is_that_of_every_step_in_order(config):
    built, x_BSD = network(config), numbers(50, BATCH, LENGTH, DIM)
    y_BSH, _, routing = built(x_BSD)
    before_BSH = torch.cat([torch.zeros(BATCH, 1, HIDDEN), y_BSH[:, :-1]], dim=1)
    inputs = torch.cat([x_BSD, before_BSH], dim=2).transpose(0, 1).flatten(0, 1)
    expected = built.moe.router(inputs)  # the router's choice depends on no other token: all steps at once
    assert routing.token_N.equal(expected.token_N)
    assert routing.expert_N.equal(expected.expert_N)
    assert routing.edges_per_token == 2
    same(routing.logits_TE, expected.logits_TE)


@EITHER
def test_a_balance_loss_over_all_steps_reaches_the_router(config):
    built = network(config)
    _, _, routing = built(numbers(50, BATCH, LENGTH, DIM))
    balance_loss(routing).backward()
    assert (built.moe.router.weight_ED.grad != 0).any()


@EITHER
def test_a_network_trains_in_float32_and_under_autocast(config):
    built, x_BSD = config.build(DIM), torch.randn(BATCH, LENGTH, DIM)
    expected = built(x_BSD)[0].detach()
    with torch.autocast("cpu", torch.bfloat16):
        y_BSH, _, routing = built(x_BSD)
    same(y_BSH.detach().float(), expected, tolerance=0.1)
    assert routing.logits_TE.dtype == torch.float32
    (y_BSH.float().sum() + balance_loss(routing)).backward()
    assert all(parameter.grad.isfinite().all() for parameter in built.parameters())


@EITHER
def test_a_network_learns_to_remember(config):
    """The last output must tell the sign of the first input."""
    torch.manual_seed(0)
    built = config.build(DIM)
    optimizer = torch.optim.Adam(built.parameters(), lr=0.02)
    x_BSD = torch.randn(64, 4, DIM)
    target = x_BSD[:, 0, 0].sign()
    for _ in range(60):
        y_BSH, _, routing = built(x_BSD)
        loss = (y_BSH[:, -1, 0] - target).square().mean()
        optimizer.zero_grad()
        (loss + balance_loss(routing)).backward()
        optimizer.step()
    assert loss.item() < 0.5


def test_configs_go_to_json_and_back():
    for config in CONFIGS:
        assert from_json(type(config), to_json(config)) == config


def test_no_step_and_another_width_are_refused():
    built = CONFIGS[0].build(DIM)
    with pytest.raises(ValueError, match=r"^x_BSD: must have a step or more, got shape \(2, 0, 3\)$"):
        built(torch.zeros(2, 0, DIM))
    with pytest.raises(ValueError, match=r"^x_BSD: size of axis -1 must be 3, got shape \(2, 1, 4\)"):
        built(torch.zeros(2, 1, DIM + 1))


def test_a_dropless_layer_over_all_steps_at_once_is_the_layer_step_by_step():
    """The convolutional application over time of 1701.06538, section 3.1: larger batches for every expert."""
    moe = MoEConfig(num_experts=4, experts=GLUExpertsConfig(hidden=5)).build(DIM).double()
    x_BSD = numbers(50, BATCH, LENGTH, DIM)
    at_once, _ = moe(x_BSD)
    same(at_once, torch.stack([moe(x_BD)[0] for x_BD in x_BSD.unbind(1)], dim=1))
