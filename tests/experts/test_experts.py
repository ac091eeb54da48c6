"""The experts as modules: shapes, names, dense twins, any module as an expert, autocast."""

import pytest
import references
import torch
from cases import ACTIVATIONS, dispatch_of, numbers, same
from torch import nn

from sparsemix import GLUExpertsConfig, MLPExpertsConfig, ModuleExperts, ModuleExpertsConfig, Routing, sort_by_expert

DIM, HIDDEN, NUM_EXPERTS = 4, 3, 5
CONFIGS = [
    GLUExpertsConfig(hidden=HIDDEN),
    MLPExpertsConfig(hidden=HIDDEN),
    MLPExpertsConfig(hidden=HIDDEN, bias=True),
]


def edges() -> Routing:
    """Expert 2 has no rows."""
    token_N, expert_N = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([4, 0, 0, 1, 3, 0])
    return Routing(token_N, expert_N, numbers(9, 6).abs(), edges_per_token=2)


def fill(module: nn.Module) -> nn.Module:
    """Biases begin at 0 and would hide."""
    for i, parameter in enumerate(module.parameters()):
        with torch.no_grad():
            parameter.copy_(numbers(i, *parameter.shape))
    return module


@pytest.mark.parametrize("config", CONFIGS)
def test_parameters_are_stored_expert_out_in(config):
    experts = config.build(DIM, NUM_EXPERTS)
    shapes = {name: tuple(parameter.shape) for name, parameter in experts.named_parameters()}
    if config.type == "glu":
        assert shapes == {"gate_up_EFD": (5, 6, 4), "down_EDF": (5, 4, 3)}
    else:
        biases = {"up_bias_EF": (5, 3), "down_bias_ED": (5, 4)} if config.bias else {}
        assert shapes == {"up_EFD": (5, 3, 4), "down_EDF": (5, 4, 3), **biases}


@pytest.mark.parametrize("config", CONFIGS)
def test_initial_weights_keep_the_scale_and_biases_are_zero(config):
    experts = type(config)(**{**vars_of(config), "hidden": 64}).build(256, 8)
    for name, parameter in experts.named_parameters():
        if "bias" in name:
            assert (parameter == 0).all()
        else:
            assert float(parameter.detach().std() * parameter.shape[-1] ** 0.5) == pytest.approx(1, abs=0.05)


def vars_of(config) -> dict:
    return {name: getattr(config, name) for name in config.__dataclass_fields__}


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_each_expert_is_its_formula_and_its_dense_twin(config, name):
    config = type(config)(**{**vars_of(config), "activation": name})
    experts, dense = fill(config.build(DIM, NUM_EXPERTS).double()), config.build_dense(DIM).double()
    x_TD, routing = numbers(7, 3, DIM), edges()
    expected_TD = torch.zeros(3, DIM, dtype=torch.float64)

    y_TD, inner = experts(x_TD, sort_by_expert(routing, NUM_EXPERTS))

    assert inner == ()
    for t, e, weight in zip(routing.token_N.tolist(), routing.expert_N.tolist(), routing.weight_N):
        x_D = x_TD[t]
        own = [parameter[e] for parameter in experts.parameters()]
        formula = (
            references.glu(x_D, *own, name) if config.type == "glu" else references.mlp(x_D, *own[:2], name, *own[2:])
        )
        expected_TD[t] += (weight * formula).detach()
        with torch.no_grad():
            for parameter, values in zip(dense.parameters(), own):
                parameter.copy_(values)
        same(dense(x_D.view(1, 1, DIM)).flatten(), formula, "dense twin")
    same(y_TD, expected_TD, "experts")


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_autocast_computes_in_bfloat16_and_gives_float32_gradients(config, backend):
    experts = type(config)(**{**vars_of(config), "backend": backend}).build(DIM, NUM_EXPERTS)
    dispatch = sort_by_expert(edges()._replace(weight_N=torch.rand(6)), NUM_EXPERTS)
    x_TD = torch.randn(3, DIM, requires_grad=True)
    expected, _ = experts(x_TD, dispatch)
    with torch.autocast("cpu", torch.bfloat16):
        y_TD, _ = experts(x_TD, dispatch)
        assert y_TD.dtype == config.build_dense(DIM)(x_TD).dtype == torch.bfloat16
    y_TD.float().sum().backward()
    same(y_TD.float(), expected, tolerance=0.1)
    assert {parameter.grad.dtype for parameter in experts.parameters()} == {torch.float32}
    assert x_TD.grad.dtype == torch.float32


@pytest.mark.parametrize("config", CONFIGS)
def test_autocast_leaves_float64_alone_as_linear_layers_do(config):
    experts, dispatch = config.build(DIM, NUM_EXPERTS).double(), sort_by_expert(edges(), NUM_EXPERTS)
    with torch.autocast("cpu", torch.bfloat16):
        assert experts(numbers(0, 3, DIM), dispatch)[0].dtype == torch.float64
        assert config.build_dense(DIM).double()(numbers(0, 3, DIM)).dtype == torch.float64


# --- any module ------------------------------------------------------------------------------------------------------


def test_modules_of_different_kinds_and_sizes_are_experts():
    modules = [
        nn.Linear(DIM, DIM),
        nn.Identity(),
        nn.Linear(DIM, DIM),
        nn.Sequential(nn.Linear(DIM, 7), nn.Tanh(), nn.Linear(7, DIM)),
        nn.LayerNorm(DIM),
    ]
    experts, x_TD = ModuleExperts(modules).double(), numbers(7, 3, DIM).requires_grad_()
    routing = edges()._replace(weight_N=numbers(9, 6).requires_grad_())
    dispatch = sort_by_expert(routing, NUM_EXPERTS)
    rows = [[] for _ in x_TD]
    for t, e, weight in zip(routing.token_N.tolist(), routing.expert_N.tolist(), routing.weight_N):
        rows[t].append(weight * modules[e](x_TD[t]))
    expected = torch.stack([sum(own) for own in rows])

    y_TD, inner = experts(x_TD, dispatch)

    assert inner == ()
    same(y_TD, expected)
    upstream = numbers(1, 3, DIM)
    inputs = [x_TD, routing.weight_N, *experts.parameters()]
    grads = torch.autograd.grad((y_TD * upstream).sum(), inputs, retain_graph=True)
    wanted = torch.autograd.grad((expected * upstream).sum(), inputs, allow_unused=True)
    for grad, expected_grad in zip(grads, wanted):
        same(grad, torch.zeros_like(grad) if expected_grad is None else expected_grad)


class Fussy(nn.Module):
    """Like many modules it does not take an empty batch."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert len(x) > 0
        return x * self.weight


@pytest.mark.parametrize("num_tokens", [0, 1])
def test_a_module_without_rows_is_not_called_yet_has_a_gradient(num_tokens):
    experts = ModuleExpertsConfig(make=Fussy).build(DIM, 3)
    dispatch = dispatch_of([0] * num_tokens, [1] * num_tokens, 3)
    if num_tokens == 0:
        dispatch = dispatch._replace(token_N=torch.zeros(0, dtype=torch.int64))
    y_TD, _ = experts(torch.ones(num_tokens, DIM), dispatch)
    y_TD.sum().backward()
    assert y_TD.shape == (num_tokens, DIM)
    assert [float(module.weight.grad.sum()) for module in experts.experts] == [0, DIM * num_tokens, 0]


def test_no_modules_are_refused():
    with pytest.raises(ValueError, match=r"^modules: must name at least one expert"):
        ModuleExperts([])
