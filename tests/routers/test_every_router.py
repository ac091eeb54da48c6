"""What all routers must do, whatever they choose by: each of `EVERY_ROUTER` is put through it."""

import typing

import pytest
import torch
from cases import numbers, same
from routers.examples import DIM, EVERY_ROUTER, NUM_EXPERTS, below, built, everything, route
from torch.utils.checkpoint import checkpoint

from sparsemix import GLUExpertsConfig, MoE, MoEConfig, Routing, TopKRouterConfig, balance_loss
from sparsemix.config import from_json, to_json
from sparsemix.routers import CapacityConfig, RouterConfig

every_router = pytest.mark.parametrize("config", EVERY_ROUTER.values(), ids=EVERY_ROUTER)
LEARNING = {name: config for name, config in EVERY_ROUTER.items() if config.type != "hash"}  # it has no parameters
every_learning_router = pytest.mark.parametrize("config", LEARNING.values(), ids=LEARNING)
in_both_modes = pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])


def layer_with(router) -> MoE:
    """A small mixture in float64 with this router."""
    experts = GLUExpertsConfig(hidden=3).build(DIM, NUM_EXPERTS).double()
    return MoE(router, experts).train(router.training)


def added_losses(router, routing: Routing) -> torch.Tensor:
    """What training adds for its balance, 0 for a router that asks for nothing."""
    losses = router.config.losses(NUM_EXPERTS)
    if not router.training or (not losses and routing.loss is None):
        return routing.weight_N.new_zeros(())
    return balance_loss(routing, losses)


def same_routings(actual: Routing, expected: Routing) -> None:
    assert actual.expert_N.equal(expected.expert_N)
    assert actual.token_N.equal(expected.token_N)
    assert actual.weight_N.equal(expected.weight_N)
    for name in ("live_N", "logits_TE", "probs_TE", "load_TE", "loss"):
        own, wanted = getattr(actual, name), getattr(expected, name)
        assert (own is None and wanted is None) or own.equal(wanted), name


# --- what a routing is ------------------------------------------------------------------------------------------------


def test_every_kind_of_router_is_put_to_the_test():
    union = typing.get_args(typing.get_args(RouterConfig)[0])
    assert {type(config) for config in EVERY_ROUTER.values()} == set(union)


@every_router
@in_both_modes
@pytest.mark.parametrize("situation", ["any", "ties", "equal tokens"])
def test_a_routing_leads_from_tokens_to_experts_once_each(config, training, situation):
    router, x_TD = built(config, NUM_EXPERTS).train(training), numbers(1, 12, DIM)
    if situation != "any":
        x_TD = x_TD[:1].expand(12, DIM) * (0 if situation == "ties" else 1)
    routing = route(router, x_TD)
    edges = list(zip(routing.token_N.tolist(), routing.expert_N.tolist()))
    assert len(set(edges)) == len(edges)
    assert all(0 <= t < 12 and 0 <= e < NUM_EXPERTS for t, e in edges)
    assert routing.weight_N.isfinite().all()
    if routing.probs_TE is not None:
        same(routing.probs_TE.sum(-1), torch.ones(12, dtype=torch.float64), "sum of probabilities")
    if routing.edges_per_token is not None:
        assert (
            config.edges_per_token(NUM_EXPERTS) <= routing.edges_per_token
        )  # the same, unless some are for lack of room
        assert routing.token_N.tolist() == [t for t in range(12) for _ in range(routing.edges_per_token)]


@every_router
@in_both_modes
@pytest.mark.parametrize("num_tokens", [0, 1])
def test_no_token_and_one_token_are_routed_and_leave_every_parameter_in_the_graph(config, training, num_tokens):
    router, x_TD = built(config, NUM_EXPERTS).train(training), numbers(1, num_tokens, DIM).requires_grad_()
    moe = layer_with(router)
    routing = route(router, x_TD)
    y_TD, _ = moe(x_TD, info=everything(num_tokens))
    assert y_TD.shape == x_TD.shape
    loss = added_losses(router, routing)
    assert loss.isfinite()
    (y_TD.sum() + routing.weight_N.sum() + loss).backward()
    for name, parameter in moe.named_parameters():
        assert parameter.grad is not None or not training, name  # evaluation needs no noise
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


# --- what it may depend on --------------------------------------------------------------------------------------------


def leaks(config, training: bool) -> bool:
    """Whether, in any of many tries, other later tokens change what becomes of an earlier one."""
    for trial in range(6):
        moe = layer_with(built(config, NUM_EXPERTS, seed=trial).train(training))
        x_TD, other_TD = numbers(100 + trial, 12, DIM), numbers(200 + trial, 12, DIM)
        expected_TD = outputs(moe, x_TD, seed=trial)
        for first_later in (1, 4, 8):
            changed_TD = torch.cat([x_TD[:first_later], other_TD[first_later:]])
            y_TD = outputs(moe, changed_TD, seed=trial)
            # Not bit for bit: a matrix product of other rows may round otherwise.
            if not torch.allclose(y_TD[:first_later], expected_TD[:first_later], rtol=0, atol=1e-9):
                return True
    return False


@torch.no_grad()
def outputs(moe: MoE, x_TD: torch.Tensor, seed: int) -> torch.Tensor:
    torch.manual_seed(seed)
    return moe(x_TD, info=everything(len(x_TD)))[0]


CAPACITIES = {
    f"k = {k}, {names}": TopKRouterConfig(k=k, normalize=False, capacity=CapacityConfig(**fields))
    for k in (1, 2)
    for names, fields in {
        "by position": {"factor": 0.6},
        "by probability": {"factor": 0.6, "priority": "probability"},
        "by token": {"factor": 0.6, "priority": "token"},
        "in evaluation": {"factor": 100.0, "factor_eval": 0.6},
        "in evaluation by probability": {"factor": 100.0, "factor_eval": 0.6, "priority": "probability"},
    }.items()
}


@pytest.mark.parametrize("config", [*EVERY_ROUTER.values(), *CAPACITIES.values()], ids=[*EVERY_ROUTER, *CAPACITIES])
def test_a_router_is_causal_exactly_if_it_says_so(config):
    assert built(config, NUM_EXPERTS).causal == config.causal
    assert (leaks(config, training=True) or leaks(config, training=False)) != config.causal


def test_position_priority_leaks_for_two_choices():
    """One place an expert. Token 0 wants experts 0 and 1; it gets 1 only if token 1's first choice is not 1."""
    router = TopKRouterConfig(k=2, capacity=CapacityConfig(factor=0.5)).build(3, 3)
    torch.nn.init.eye_(router.weight_ED)
    first, wants_1, wants_2 = [3.0, 2.0, 0.0], [0.0, 3.0, 2.0], [0.0, 2.0, 3.0]
    live = [router(torch.tensor([first, later])).live_N[:2].tolist() for later in (wants_1, wants_2)]
    assert live == [[True, False], [True, True]]


@every_router
@in_both_modes
def test_what_padding_holds_has_no_influence(config, training):
    router, valid_T = built(config, NUM_EXPERTS).train(training), torch.arange(12) % 3 != 1
    x_TD, other_TD = numbers(1, 12, DIM), 100 * numbers(2, 12, DIM)
    other_TD[valid_T] = x_TD[valid_T]
    routings = [route(router, tokens_TD, valid_T) for tokens_TD in (x_TD, other_TD)]
    of_valid = []
    for routing in routings:
        valid_N = valid_T[routing.token_N]
        live_N = torch.ones_like(valid_N) if routing.live_N is None else routing.live_N
        assert not live_N[~valid_N].any()
        of_valid.append((routing.token_N[valid_N], routing.expert_N[valid_N], live_N[valid_N]))
    assert all(own.equal(other) for own, other in zip(*of_valid))
    weights = [routing.weight_N[valid_T[routing.token_N]] for routing in routings]
    same(*weights, "weights", tolerance=1e-9)
    same(*(added_losses(router, routing) for routing in routings), "losses", tolerance=1e-9)
    if router.statistic(routings[0]) is not None:
        same(*(router.statistic(routing) for routing in routings), "statistic", tolerance=1e-9)


@every_router
@in_both_modes
def test_the_same_seed_gives_the_same_routing(config, training):
    router, x_TD = built(config, NUM_EXPERTS).train(training), numbers(1, 12, DIM)
    same_routings(route(router, x_TD), route(router, x_TD))


@every_learning_router
def test_forward_changes_no_state_and_checkpointing_no_gradient(config):
    router, x_TD = built(config, NUM_EXPERTS), numbers(1, 12, DIM).requires_grad_()
    before = {name: tensor.clone() for name, tensor in router.state_dict().items()}

    def gradients(checkpointed: bool) -> tuple[torch.Tensor, ...]:
        def loss(x_TD):
            routing = route(router, x_TD)
            return (routing.weight_N * numbers(3, len(routing.weight_N))).sum() + added_losses(router, routing)

        value = checkpoint(loss, x_TD, use_reentrant=False) if checkpointed else loss(x_TD)
        return torch.autograd.grad(value, [x_TD, *router.parameters()], materialize_grads=True)

    for plain, again in zip(gradients(False), gradients(True)):
        assert plain.equal(again)
    assert all(tensor.equal(before[name]) for name, tensor in router.state_dict().items())


@every_learning_router
@in_both_modes
def test_the_gradients_of_all_that_is_handed_on_are_those_of_finite_differences(config, training):
    router, x_TD = built(config, NUM_EXPERTS).train(training), numbers(1, 5, DIM).requires_grad_()
    names, values = zip(*router.named_parameters())
    valid_T = torch.arange(5) != 2

    def handed_on(x_TD, *parameters):
        torch.manual_seed(0)
        arguments = (x_TD, everything(5, valid_T), below(numbers(9, 5, NUM_EXPERTS)))
        routing = torch.func.functional_call(router, dict(zip(names, parameters)), arguments)
        loss = 100 * added_losses(router, routing)
        found = (routing.weight_N, routing.logits_TE, routing.probs_TE, routing.load_TE, loss)
        return tuple(value for value in found if value is not None)

    assert torch.autograd.gradcheck(handed_on, (x_TD, *values), fast_mode=True)


# --- precision --------------------------------------------------------------------------------------------------------


@every_router
@in_both_modes
def test_a_narrow_model_keeps_a_wide_router(config, training):
    router = config.build(DIM, NUM_EXPERTS).bfloat16().train(training)
    wide = {tensor.dtype for tensor in router.state_dict().values() if tensor.is_floating_point()}
    assert wide <= {torch.float32}
    routing = route(router, torch.randn(12, DIM, dtype=torch.bfloat16))
    for name in ("weight_N", "logits_TE", "probs_TE", "load_TE", "loss"):
        assert getattr(routing, name) is None or getattr(routing, name).dtype == torch.float32, name


@every_router
@in_both_modes
def test_autocast_changes_nothing(config, training):
    router, x_TD = built(config, NUM_EXPERTS).float().train(training), numbers(1, 12, DIM).float()
    expected = route(router, x_TD)
    with torch.autocast("cpu", torch.bfloat16):
        routing = route(router, x_TD)
    same_routings(routing, expected)


# --- configs and balance ----------------------------------------------------------------------------------------------


@every_router
def test_a_config_is_the_same_after_json(config):
    layer = MoEConfig(num_experts=NUM_EXPERTS, router=config, experts=GLUExpertsConfig(hidden=3))
    again = from_json(MoEConfig, to_json(layer))
    assert again == layer
    assert type(again.router) is type(config)


@every_router
def test_training_balances_every_router(config):
    """By the losses of its paper, by state that follows the load, or by itself."""
    router = built(config, NUM_EXPERTS)
    routing = route(router, numbers(1, 12, DIM))
    loss = added_losses(router, routing)
    assert loss.isfinite()
    follows = router.statistic(routing)
    if follows is not None:
        router.update(follows + follows)
    if follows is None and not config.balances_itself:
        gradients = torch.autograd.grad(loss, list(router.parameters()), materialize_grads=True)
        assert any(gradient.any() for gradient in gradients)
