"""The layer against a loop over tokens, and against what it must be equal to."""

import math

import pytest
import references
import torch
from cases import ACTIVATIONS, DIM, GATES, gradients, layer_of, numbers, same
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsemix import (
    CapacityConfig,
    GLUExpertsConfig,
    ImportanceLoss,
    MLPExpertsConfig,
    ModuleExperts,
    MoE,
    MoEConfig,
    SelectionBiasConfig,
    SwitchLoss,
    TokenInfo,
    TopKRouterConfig,
    ZLoss,
    balance_loss,
    moe_forward,
)
from sparsemix.kernels import combine

LOSSES = (SwitchLoss(), ZLoss(), ImportanceLoss())


def functions_of(moe: MoE):
    """Each expert as a function of one token, written with the layer's own parameters."""
    config, parameters = moe.experts.config, list(moe.experts.parameters())
    if config.type == "glu":
        return [
            lambda x, e=e: references.glu(x, *[p[e] for p in parameters], config.activation)
            for e in range(moe.experts.num_experts)
        ]
    return [
        lambda x, e=e: references.mlp(
            x, parameters[0][e], parameters[1][e], config.activation, *[p[e] for p in parameters[2:]]
        )
        for e in range(moe.experts.num_experts)
    ]


def shared_of(moe: MoE, x_D):
    config, own = moe.shared.config, list(moe.shared.parameters())
    y_D = (
        references.glu(x_D, *own, config.activation)
        if config.type == "glu"
        else references.mlp(x_D, *own[:2], config.activation, *own[2:])
    )
    return y_D if moe.shared_gate is None else references.sigmoid(moe.shared_gate.weight @ x_D) * y_D


def loop(moe: MoE, x_TD, routing, valid):
    """The layer, one token at a time. Among ties it takes the layer's choice, after checking that it is a best one."""
    router, num_experts, k = moe.router.config, moe.router.num_experts, moe.router.config.k
    bias_E = 0 if moe.router.bias_E is None else moe.router.bias_E
    logits_TE = [moe.router.weight_ED @ x_D + bias_E for x_D in x_TD]
    choices = routing.expert_N.view(-1, k).tolist()
    weights = []
    for logits_E, chosen in zip(logits_TE, choices):
        biased_E = references.scores(router.gate, logits_E.detach())
        if router.selection_bias is not None:
            biased_E = biased_E + moe.router.selection_bias.bias_E
        assert references.is_best_first(biased_E, chosen)
        weights.append(references.weights(router.gate, router.normalize, logits_E, chosen))
    limit, priority = len(choices) * k, "position"
    if router.capacity is not None:
        limit = max(1, math.ceil(round(router.capacity.factor * len(choices) * k / num_experts, 9)))
        priority = router.capacity.priority
    seen = routing.weight_N.detach().view(-1, k).tolist()  # equal weights must tie here as they do in the layer
    kept = references.served(choices, num_experts, limit, priority, lambda t, j: seen[t][j], valid)
    y_TD = moe.routed_scale * references.moe(x_TD, choices, weights, kept, functions_of(moe))
    if moe.shared is None or not len(x_TD):
        return y_TD
    return y_TD + torch.stack([shared_of(moe, x_D) for x_D in x_TD])


@st.composite
def layers(draw):
    num_experts = draw(st.integers(1, 9))
    k = draw(st.integers(1, num_experts))
    gate = draw(st.sampled_from(GATES if k > 1 else ["softmax_topk", "sigmoid"]))
    factors, priorities = st.sampled_from([0.01, 0.5, 1.0, 100.0]), st.sampled_from(["position", "probability"])
    router = TopKRouterConfig(
        k=k,
        gate=gate,
        normalize=draw(st.booleans()) and k > 1,
        bias=draw(st.booleans()),
        selection_bias=draw(st.sampled_from([None, SelectionBiasConfig()])),
        capacity=draw(st.none() | st.builds(CapacityConfig, factor=factors, priority=priorities)),
    )
    backend = draw(st.sampled_from(["reference", "cpu", "auto"]))
    glu = st.builds(
        GLUExpertsConfig, hidden=st.integers(1, 4), activation=st.sampled_from(ACTIVATIONS), backend=st.just(backend)
    )
    mlp = st.builds(
        MLPExpertsConfig,
        hidden=st.integers(1, 4),
        activation=st.sampled_from(ACTIVATIONS),
        bias=st.booleans(),
        backend=st.just(backend),
    )
    shared = draw(st.none() | glu | mlp)
    return {
        "num_experts": num_experts,
        "router": router,
        "experts": draw(glu | mlp),
        "shared": shared,
        "shared_gate": shared is not None and draw(st.booleans()),
        "routed_scale": draw(st.sampled_from([1.0, 2.5])),
    }


@settings(max_examples=250)
@given(
    layers(),
    st.integers(0, 7),
    st.sampled_from(["any", "ties", "equal tokens", "one expert"]),
    st.none() | st.integers(0, 2**7 - 1),
)
def test_value_and_every_gradient_are_those_of_a_loop_over_tokens(fields, num_tokens, situation, padding):
    moe = layer_of(**fields)
    x_TD = numbers(50, num_tokens, DIM)
    if situation == "ties":
        torch.nn.init.zeros_(moe.router.weight_ED)
    if situation == "equal tokens":
        x_TD[:] = numbers(51, DIM)
    if situation == "one expert":
        x_TD[:, 0] = 1
        with torch.no_grad():
            moe.router.weight_ED[-1, 0] = 30
    if moe.router.selection_bias is not None:
        moe.router.selection_bias.bias_E.copy_(numbers(52, moe.router.num_experts))
    valid = [padding is None or bool(padding >> t & 1) for t in range(num_tokens)]
    info = None if padding is None else TokenInfo(valid_T=torch.tensor(valid, dtype=torch.bool))
    x_TD.requires_grad_()

    y_TD, routing = moe(x_TD, info=info)

    expected = loop(moe, x_TD, routing, valid)
    same(y_TD, expected)
    upstream = numbers(53, num_tokens, DIM)
    names = ["x", *(name for name, _ in moe.named_parameters())]
    inputs = [x_TD, *moe.parameters()]
    grads = torch.autograd.grad((y_TD * upstream).sum(), inputs)  # each is in the graph, even without a token
    for name, grad, wanted in zip(names, grads, gradients((expected * upstream).sum(), inputs)):
        same(grad, wanted, f"gradient of {name}")


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize(
    "experts", [GLUExpertsConfig(hidden=2), MLPExpertsConfig(hidden=2, activation="gelu", bias=True)]
)
def test_gradcheck(gate, experts):
    router = TopKRouterConfig(k=2, gate=gate, bias=True, capacity=CapacityConfig(factor=1.0))
    moe = layer_of(4, router=router, experts=experts, shared=GLUExpertsConfig(hidden=2), shared_gate=True)
    names = [name for name, _ in moe.named_parameters()]

    def run(x, *parameters):
        y, routing = torch.func.functional_call(moe, dict(zip(names, parameters)), (x,))
        return y, balance_loss(routing, LOSSES)

    x = numbers(50, 3, DIM).requires_grad_()
    # f of the switch loss is a constant to the gradient, and stays one under gradcheck's small steps.
    assert torch.autograd.gradcheck(run, (x, *[p.detach().requires_grad_() for p in moe.parameters()]))


# --- identities ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gate", GATES)
def test_all_experts_chosen_is_the_dense_mixture(gate):
    moe, x_TD = layer_of(4, router=TopKRouterConfig(k=4, gate=gate)), numbers(50, 6, DIM)
    y_TD, _ = moe(x_TD)
    for x_D, y_D in zip(x_TD, y_TD):
        p_E = references.distribution(gate, moe.router.weight_ED @ x_D)
        same(y_D, sum(p * f(x_D) for p, f in zip(p_E, functions_of(moe))))


@pytest.mark.parametrize("gate", GATES)
def test_equal_experts_whose_weights_sum_to_one_are_the_expert(gate):
    moe, x_TD = layer_of(4, router=TopKRouterConfig(k=2, gate=gate)), numbers(50, 6, DIM)
    with torch.no_grad():
        for parameter in moe.experts.parameters():
            parameter.copy_(parameter[:1].expand_as(parameter))
    expert = functions_of(moe)[0]
    same(moe(x_TD)[0], torch.stack([expert(x_D) for x_D in x_TD]))


def test_a_single_expert_is_a_plain_ffn_and_its_router_has_gradient_zero():
    moe, x_TD = layer_of(1, router=TopKRouterConfig(k=1, normalize=False)), numbers(50, 6, DIM)
    dense = moe.experts.config.build_dense(DIM).double()
    with torch.no_grad():
        for parameter, stacked in zip(dense.parameters(), moe.experts.parameters()):
            parameter.copy_(stacked[0])
    y_TD, _ = moe(x_TD)
    same(y_TD, dense(x_TD))
    y_TD.sum().backward()
    assert (moe.router.weight_ED.grad == 0).all()


def test_a_dropped_token_gets_zero_and_the_residual_carries_it():
    router = TopKRouterConfig(k=1, normalize=False, capacity=CapacityConfig(factor=0.5))
    moe, x_TD = layer_of(4, router=router), numbers(50, 12, DIM)
    y_TD, routing = moe(x_TD)
    dropped = ~routing.live_N
    assert dropped.any()
    assert (y_TD[dropped] == 0).all()
    assert (y_TD[~dropped] != 0).all()
    assert (x_TD + y_TD)[dropped].equal(x_TD[dropped])


def test_padding_gets_zero_from_the_routed_experts():
    y_TD, _ = layer_of(4)(numbers(50, 3, DIM), info=TokenInfo(valid_T=torch.tensor([True, False, True])))
    assert (y_TD == 0).all(1).tolist() == [False, True, False]


@pytest.mark.parametrize("shape", [(DIM,), (0, DIM), (5, DIM), (2, 5, DIM), (2, 0, DIM), (2, 3, 4, DIM)])
def test_leading_axes_are_flattened_and_given_back(shape):
    moe, x = layer_of(4), numbers(50, *shape)
    y, routing = moe(x)
    assert y.shape == x.shape
    same(y, moe(x.reshape(-1, DIM))[0].view(shape))
    assert len(routing.logits_TE) == math.prod(shape[:-1])
    strided = x.transpose(0, -2) if len(shape) > 2 else x
    same(moe(strided)[0], y.transpose(0, -2) if len(shape) > 2 else y)


def test_a_layer_of_built_modules():
    router = TopKRouterConfig(k=2).build(DIM, 3)
    linears = [torch.nn.Linear(DIM, DIM, bias=False) for _ in range(3)]
    moe = MoE(router, ModuleExperts(linears)).double()
    x_TD = numbers(50, 4, DIM)
    y_TD, routing = moe(x_TD)
    for t, x_D in enumerate(x_TD):
        edges = zip(routing.expert_N[2 * t : 2 * t + 2].tolist(), routing.weight_N[2 * t : 2 * t + 2])
        same(y_TD[t], sum(weight * linears[e](x_D) for e, weight in edges))
    same(moe_forward(x_TD, routing, moe.experts)[0], y_TD)


def test_a_shared_gate_of_ones_own_may_have_a_bias():
    gate, shared, x_TD = torch.nn.Linear(DIM, 1).double(), torch.nn.Linear(DIM, DIM).double(), numbers(50, 4, DIM)
    routed = layer_of(3)
    moe = MoE(routed.router, routed.experts, shared=shared, shared_gate=gate)
    same(moe(x_TD)[0] - routed(x_TD)[0], torch.sigmoid(gate(x_TD)) * shared(x_TD))


class Nested(torch.nn.Module):
    """Experts that route once more inside."""

    def __init__(self, experts: torch.nn.Module, inside: MoE) -> None:
        super().__init__()
        self.num_experts, self.experts, self.inside = experts.num_experts, experts, inside

    def forward(self, x_TD, dispatch):
        y_TD, _ = self.experts(x_TD, dispatch)
        z_ND, inner = self.inside(x_TD[dispatch.token_N])
        return y_TD + combine(z_ND, dispatch, len(x_TD)), (inner,)


def test_routings_of_mixtures_inside_are_returned_and_balanced():
    inside, x_TD = layer_of(3), numbers(50, 4, DIM)
    moe = MoE(layer_of(4).router, Nested(layer_of(4).experts, inside))
    _, routing = moe(x_TD)
    assert [inner.logits_TE.shape for inner in routing.inner] == [(8, 3)]
    balance_loss(routing).backward()
    assert (inside.router.weight_ED.grad != 0).any()
    assert (moe.router.weight_ED.grad != 0).any()


def test_a_shared_gate_needs_a_shared_expert():
    with pytest.raises(
        ValueError, match=r"^shared_gate: needs a shared expert to gate, got shared=None; give `shared`"
    ):
        MoEConfig(num_experts=2, experts=GLUExpertsConfig(hidden=2), shared_gate=True).build(DIM)
