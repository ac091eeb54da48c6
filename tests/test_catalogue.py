"""Identities that hold across routers, experts and losses, each a test named after its rule.

Rules of one router, one loss or capacity alone are with these: tests/routers, tests/balance.
"""

import pytest
import references
import torch
from cases import DIM, edge_lists, gradients, layer_of, numbers, same
from hypothesis import given, settings
from hypothesis import strategies as st
from routers.examples import EVERY_ROUTER, built, everything, told

from sparsemix import (
    GLUExpertsConfig,
    MoE,
    NoisyTopKRouterConfig,
    Routing,
    SwitchRouterConfig,
    TopKRouterConfig,
    balance_loss,
    bias_step,
    load,
    moe_forward,
)
from sparsemix.balance import CommunicationLoss, DeviceLoss
from sparsemix.routers import (
    CosineRouterConfig,
    GroupLimitedRouterConfig,
    GShardRouterConfig,
    HierarchicalRouterConfig,
    TopPRouterConfig,
    VMoERouterConfig,
)

E = 8
SOFTMAX_V2 = {"gate": "softmax_topk", "group_score": "best", "normalize": False, "selection_bias": None}
OF_K = {
    "top-k": TopKRouterConfig(k=3),
    "top-k, logits first": TopKRouterConfig(k=3, gate="topk_softmax"),
    "top-k, raw": TopKRouterConfig(k=3, normalize=False),
    "sigmoid": TopKRouterConfig(k=3, gate="sigmoid"),
    "noisy": NoisyTopKRouterConfig(k=3),
    "switch": SwitchRouterConfig(capacity=None),
    "cosine": CosineRouterConfig(k=3),
    "group-limited": GroupLimitedRouterConfig(k=3, num_groups=4, keep_groups=2),
    "group-limited, softmax": GroupLimitedRouterConfig(k=3, num_groups=4, keep_groups=2, **SOFTMAX_V2),
    "GShard": GShardRouterConfig(capacity=None),
    "hierarchical": HierarchicalRouterConfig(num_groups=4, k_groups=3, k=2),
    "V-MoE": VMoERouterConfig(k=3, capacity=None),
}
"""Routers of a fixed number of experts a token, none of whom is dropped in evaluation."""
NORMALISED = ["top-k", "top-k, logits first", "sigmoid", "noisy", "group-limited", "GShard", "hierarchical"]
"""Those whose weights sum to 1."""
ALL_OF_THEM = {
    "top-k": TopKRouterConfig(k=E),
    "top-k, logits first": TopKRouterConfig(k=E, gate="topk_softmax"),
    "top-k, raw": TopKRouterConfig(k=E, normalize=False),
    "noisy": NoisyTopKRouterConfig(k=E),
    "group-limited": GroupLimitedRouterConfig(k=E, num_groups=4, keep_groups=4, **SOFTMAX_V2),
    "top-p": TopPRouterConfig(p=1 - 1e-12),
    "V-MoE": VMoERouterConfig(k=E, capacity=None),
}
"""By softmax, and every expert is chosen."""


def gate_matrix(routing: Routing, num_tokens: int, num_experts: int) -> torch.Tensor:
    """Combine weights of the live edges, (T, E), 0 elsewhere."""
    live_N = torch.ones_like(routing.weight_N, dtype=torch.bool) if routing.live_N is None else routing.live_N
    gates_TE = routing.weight_N.new_zeros(num_tokens, num_experts)
    place = (routing.token_N[live_N], routing.expert_N[live_N])
    return gates_TE.index_put(place, routing.weight_N[live_N], accumulate=True)


def experts_of(num_experts: int, backend: str = "auto"):
    """In float64, with parameters of size 1."""
    experts = GLUExpertsConfig(hidden=4, backend=backend)
    return layer_of(num_experts, router=SwitchRouterConfig(), experts=experts).experts


def mixture(config, num_experts: int = E) -> MoE:
    """A layer with this router, in evaluation."""
    return MoE(built(config, num_experts, dim=DIM), experts_of(num_experts)).eval()


# --- gates -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", OF_K.values(), ids=OF_K)
def test_gates_have_k_entries_a_row_and_zeros_elsewhere(config):
    gates_TE = gate_matrix(built(config, E).eval()(numbers(1, 20, 6), everything(20)), 20, E)
    assert (gates_TE != 0).sum(1).tolist() == [config.edges_per_token(E)] * 20


@pytest.mark.parametrize("config", [OF_K[name] for name in NORMALISED], ids=NORMALISED)
def test_renormalised_gates_sum_to_one_a_row(config):
    gates_TE = gate_matrix(built(config, E).eval()(numbers(1, 20, 6), everything(20)), 20, E)
    same(gates_TE.sum(1), torch.ones(20, dtype=torch.float64))


@pytest.mark.parametrize("k", [2, 3, 8])
@pytest.mark.parametrize("temperature", [0.1, 1.0, 30.0])
def test_topk_then_softmax_is_softmax_then_topk_renormalised(k, temperature):
    logits_TE = numbers(1, 50, E) * temperature
    first, second = (
        told(TopKRouterConfig(k=k, gate=gate), logits_TE)[0](logits_TE) for gate in ("topk_softmax", "softmax_topk")
    )
    same(gate_matrix(first, 50, E), gate_matrix(second, 50, E))


@pytest.mark.parametrize("name", [name for name in OF_K if name not in ("cosine", "hierarchical")])
def test_a_constant_added_to_all_logits_leaves_softmax_gates_and_moves_sigmoids(name):
    router, logits_TE = told(OF_K[name], numbers(1, 20, E))
    router.eval()
    before, after = (gate_matrix(router(z_TE), 20, E) for z_TE in (logits_TE, logits_TE + 1.5))
    if name in ("sigmoid", "group-limited"):
        assert float((before - after).detach().abs().max()) > 1e-3
        assert (before != 0).equal(after != 0) or name == "group-limited"  # whose groups add scores up
    else:
        same(after, before)


# --- mixtures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", ALL_OF_THEM.values(), ids=ALL_OF_THEM)
def test_all_experts_by_softmax_are_the_dense_mixture(config):
    moe, x_TD = mixture(config), numbers(50, 6, DIM).requires_grad_()
    y_TD, _ = moe(x_TD)
    ones = Routing(torch.arange(6), torch.zeros(6, dtype=torch.int64), torch.ones(6, dtype=torch.float64))
    each = [moe_forward(x_TD, ones._replace(expert_N=ones.expert_N + e), moe.experts)[0] for e in range(E)]
    p_TE = (x_TD @ moe.router.weight_ED.T).softmax(-1)
    expected_TD = sum(p_TE[:, e, None] * each[e] for e in range(E))
    same(y_TD, expected_TD)
    upstream, inputs = numbers(51, 6, DIM), [x_TD, *moe.parameters()]
    grads, wanted = (gradients((value * upstream).sum(), inputs) for value in (y_TD, expected_TD))
    for one, other in zip(grads, wanted):
        same(one, other, "gradient")


@pytest.mark.parametrize("config", [OF_K[name] for name in NORMALISED], ids=NORMALISED)
def test_equal_experts_are_the_expert_where_gates_sum_to_one(config):
    moe, x_TD = mixture(config), numbers(50, 6, DIM)
    with torch.no_grad():
        for parameter in moe.experts.parameters():
            parameter.copy_(parameter[:1].expand_as(parameter))
    gate_up_FD, down_DF = (parameter[0] for parameter in moe.experts.parameters())
    expected = torch.stack([references.glu(x_D, gate_up_FD, down_DF, "silu") for x_D in x_TD])
    same(moe(x_TD, info=everything(6))[0], expected)


@pytest.mark.parametrize(
    "config",
    [
        SwitchRouterConfig(capacity=None),
        TopKRouterConfig(k=1, normalize=False),
        TopPRouterConfig(),
        VMoERouterConfig(k=1, capacity=None),
    ],
    ids=lambda config: config.type,
)
def test_one_expert_is_a_plain_ffn_whose_router_has_gradient_zero(config):
    moe, x_TD = mixture(config, 1), numbers(50, 6, DIM)
    gate_up_FD, down_DF = (parameter[0] for parameter in moe.experts.parameters())
    y_TD, _ = moe(x_TD)
    same(y_TD, torch.stack([references.glu(x_D, gate_up_FD, down_DF, "silu") for x_D in x_TD]))
    y_TD.sum().backward()
    assert not moe.router.weight_ED.grad.any()


# --- dispatch and combine --------------------------------------------------------------------------------------------


def by_einsum(x_TD, routing: Routing, experts) -> torch.Tensor:
    """Mesh TensorFlow's way: one-hot tensors of tokens, experts and places; an expert sees all its places."""
    num_experts, places, edges = experts.num_experts, len(routing.token_N), range(len(routing.token_N))
    live = [True] * places if routing.live_N is None else routing.live_N.tolist()
    dispatch_TEC = x_TD.new_zeros(len(x_TD), num_experts, places)
    combine_TEC = x_TD.new_zeros(len(x_TD), num_experts, places)
    for place in (n for n in edges if live[n]):  # a place of its own for each edge
        where = torch.zeros_like(dispatch_TEC)
        where[routing.token_N[place], routing.expert_N[place], place] = 1
        dispatch_TEC, combine_TEC = dispatch_TEC + where, combine_TEC + routing.weight_N[place] * where
    x_ECD = torch.einsum("tec,td->ecd", dispatch_TEC, x_TD)
    gate_up_EFD, down_EDF = experts.parameters()
    gate_ECF, up_ECF = torch.einsum("ecd,efd->ecf", x_ECD, gate_up_EFD).chunk(2, dim=-1)
    y_ECD = torch.einsum("ecf,edf->ecd", references.activation("silu", gate_ECF) * up_ECF, down_EDF)
    return torch.einsum("tec,ecd->td", combine_TEC, y_ECD)


def by_loop(x_TD, routing: Routing, experts) -> torch.Tensor:
    """An edge at a time."""
    live = [True] * len(routing.token_N) if routing.live_N is None else routing.live_N.tolist()
    gate_up_EFD, down_EDF = experts.parameters()
    rows = list(torch.zeros_like(x_TD))
    for t, e, weight, is_live in zip(routing.token_N.tolist(), routing.expert_N.tolist(), routing.weight_N, live):
        if is_live:
            rows[t] = rows[t] + weight * references.glu(x_TD[t], gate_up_EFD[e], down_EDF[e], "silu")
    return torch.stack(rows) if rows else 0 * x_TD


@pytest.mark.parametrize("backend", ["auto", "reference", "cpu"])
@settings(max_examples=60)
@given(case=edge_lists())
def test_einsum_gather_and_scatter_loop_and_grouped_products_agree(backend, case):
    """Values and gradients; with experts that nobody chose, no token, one token, and the same edge twice."""
    routing, num_tokens, num_experts = case
    experts = experts_of(num_experts, backend)
    x_TD = numbers(50, num_tokens, DIM).requires_grad_()
    inputs, upstream = [x_TD, routing.weight_N, *experts.parameters()], numbers(51, num_tokens, DIM)
    y_TD, _ = moe_forward(x_TD, routing, experts)
    grads = gradients((y_TD * upstream).sum(), inputs)
    for way in (by_einsum, by_loop):
        expected_TD = way(x_TD, routing, experts)
        same(y_TD, expected_TD)
        for one, other in zip(grads, gradients((expected_TD * upstream).sum(), inputs)):
            same(one, other, f"gradient against {way.__name__}")


def test_the_gradient_of_a_weight_is_dy_along_the_output_and_its_back_projection_along_the_hidden():
    """ds = <dy, W_down a> = <W_down^T dy, a>: outputs of experts need not be kept for backward."""
    moe, x_TD, upstream_TD = mixture(TopKRouterConfig(k=2)), numbers(50, 6, DIM), numbers(51, 6, DIM)
    _, routing = moe(x_TD)
    routing = routing._replace(weight_N=routing.weight_N.detach().requires_grad_())
    y_TD, _ = moe_forward(x_TD, routing, moe.experts)
    (grad_N,) = torch.autograd.grad((y_TD * upstream_TD).sum(), routing.weight_N)
    gate_up_EFD, down_EDF = (parameter.detach() for parameter in moe.experts.parameters())
    for t, e, grad in zip(routing.token_N.tolist(), routing.expert_N.tolist(), grad_N):
        gate_F, up_F = (gate_up_EFD[e] @ x_TD[t]).chunk(2)
        hidden_F = references.activation("silu", gate_F) * up_F
        same(grad, upstream_TD[t] @ (down_EDF[e] @ hidden_F))
        same(grad, (down_EDF[e].T @ upstream_TD[t]) @ hidden_F)


def test_the_order_of_tokens_makes_no_difference_without_a_capacity():
    moe, x_TD = mixture(TopKRouterConfig(k=2)), numbers(50, 130, DIM)  # no multiple of any block
    order_T = torch.randperm(130, generator=torch.Generator().manual_seed(0))
    same(moe(x_TD[order_T])[0], moe(x_TD)[0][order_T])


# --- losses ----------------------------------------------------------------------------------------------------------


@given(st.integers(1, 12), st.integers(0, 9))
def test_the_loss_of_one_device_is_its_coefficient_whatever_the_routing(num_tokens, seed):
    """The mean of E f_i over all experts is 1, and all probability is there."""
    routing = built(TopKRouterConfig(k=2), E, seed=seed)(numbers(seed, num_tokens, 6))
    assert balance_loss(routing, [DeviceLoss(num_devices=1, weight=0.05)]).item() == pytest.approx(0.05)
    communication = CommunicationLoss(num_devices=1, devices_per_token=1, weight=0.02)
    assert balance_loss(routing, [communication]).item() == pytest.approx(0.02)


# --- groups ----------------------------------------------------------------------------------------------------------


@given(st.sampled_from([(4, 1, 2), (4, 2, 3), (2, 1, 3), (8, 3, 3)]), st.integers(0, 9), st.booleans())
def test_experts_lie_in_as_many_groups_as_are_kept_at_most(sizes, seed, softmax):
    num_groups, keep, k = sizes
    fields = SOFTMAX_V2 if softmax else {}
    router = built(GroupLimitedRouterConfig(k=k, num_groups=num_groups, keep_groups=keep, **fields), E, seed=seed)
    expert_TK = router(numbers(seed, 20, 6)).expert_N.view(20, k)
    groups = [{e * num_groups // E for e in row} for row in expert_TK.tolist()]
    assert max(map(len, groups)) <= keep
    assert all(len(set(row)) == k for row in expert_TK.tolist())


# --- selection bias --------------------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.integers(0, 20), min_size=5, max_size=5), min_size=1, max_size=30))
def test_a_bias_drifts_by_no_more_than_the_rate_times_the_steps(loads):
    rate, bias_E = 0.001, torch.zeros(5, dtype=torch.float64)
    for step, load_E in enumerate(loads, 1):
        bias_E = bias_step(bias_E, torch.tensor(load_E), rate)
        assert float(bias_E.abs().max()) <= rate * step * (1 + 1e-12)


@pytest.mark.parametrize(
    "config",
    [config for config in EVERY_ROUTER.values() if getattr(config, "selection_bias", None) is not None],
    ids=lambda config: config.type,
)
def test_a_selection_bias_is_state_without_gradient_and_no_parameter(config):
    router = built(config, E)
    names = [name for name in router.state_dict() if name.endswith("selection_bias.bias_E")]
    assert len(names) == 1
    assert not any("selection_bias" in name for name, _ in router.named_parameters())
    routing = router(numbers(1, 20, 6), everything(20))
    balance_loss(routing, config.losses(E)).backward()
    assert not router.get_buffer(names[0]).requires_grad
    before_E = router.get_buffer(names[0]).clone()
    router.update(router.statistic(routing))
    same(router.get_buffer(names[0]), bias_step(before_E, load(routing, E), config.selection_bias.rate))
