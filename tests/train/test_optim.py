import pytest
import torch
from train.examples import tiny_model

from sparsemix.experts import GLUExpertsConfig, MLPExpertsConfig
from sparsemix.layer import MoEConfig
from sparsemix.models import AttentionConfig
from sparsemix.routers import NoisyTopKRouterConfig
from sparsemix.train import AdamWConfig, MuonConfig
from sparsemix.train.optim import by_role, role

FULL = tiny_model(
    moe=MoEConfig(
        num_experts=4,
        router=NoisyTopKRouterConfig(k=2),
        experts=MLPExpertsConfig(hidden=8, bias=True),
        shared=GLUExpertsConfig(hidden=8),
        shared_gate=True,
    ),
    attention=AttentionConfig(num_heads=2, qk_norm="head", bias="qkvo"),
    ffn=GLUExpertsConfig(hidden=8),
    moe_every=2,
)
CONFIGS = [AdamWConfig(), MuonConfig()]


def with_gradients(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    return model


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.type)
@pytest.mark.parametrize("tie", [True, False])
def test_every_parameter_is_moved_by_exactly_one_group(config, tie):
    model = FULL.__class__(**(vars(FULL) | {"tie_embeddings": tie})).build()
    optimizer = config.build(model)
    assert sorted(map(id, optimizer.parameters)) == sorted(id(p) for p in model.parameters())


def test_roles():
    names = {name: role(name, parameter) for name, parameter in FULL.build().named_parameters()}
    roles = {
        "embedding.weight": "embedding",
        "unembedding.weight": "unembedding",
        "norm.weight": "vector",
        "blocks.0.attention.query.weight": "matrix",
        "blocks.0.attention.query.bias": "vector",
        "blocks.0.attention.query_norm.weight": "vector",
        "blocks.0.ffn.gate_up_FD": "matrix",
        "blocks.1.ffn.router.weight_ED": "router",
        "blocks.1.ffn.router.noise_ED": "router",
        "blocks.1.ffn.experts.up_EFD": "matrix",
        "blocks.1.ffn.experts.up_bias_EF": "vector",
        "blocks.1.ffn.shared.gate_up_FD": "matrix",
        "blocks.1.ffn.shared_gate.weight": "vector",
    }
    assert {name: names[name] for name in roles} == roles


def test_frozen_parameters_are_left_out():
    model = FULL.build()
    model.embedding.weight.requires_grad_(False)
    assert "embedding" not in by_role(model)


def test_each_role_has_its_learning_rate_and_only_matrices_decay():
    config = AdamWConfig(lr=1e-3, embedding_lr=2e-3, unembedding_lr=3e-3, router_lr=4e-3, weight_decay=0.3)
    model = FULL.build()
    optimizer = config.build(model)
    role_of = {p: kind for kind, members in by_role(model).items() for p in members}
    rates = {"matrix": 1e-3, "vector": 1e-3, "embedding": 2e-3, "unembedding": 3e-3, "router": 4e-3}
    for group in optimizer.parts[0].param_groups:
        for parameter in group["params"]:
            kind = role_of[parameter]
            assert (group["lr"], group["weight_decay"]) == (rates[kind], 0.3 if kind == "matrix" else 0)


def test_adamw_first_step_by_hand():
    """Bias correction makes the first step lr times the gradient's sign, and decay is decoupled."""
    model = with_gradients(tiny_model().build())
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    AdamWConfig(lr=0.01, weight_decay=0.5).build(model).step(0.5)
    for name, parameter in model.named_parameters():
        decay = 0.5 if role(name, parameter) == "matrix" else 0
        expected = before[name] * (1 - 0.005 * decay) - 0.005 * parameter.grad.sign()
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-4, atol=1e-5)


def test_learning_rates_follow_the_multiplier_and_not_each_other():
    optimizer = MuonConfig(lr=0.02, rest=AdamWConfig(lr=0.003)).build(with_gradients(tiny_model().build()))
    for multiplier in (0.5, 0.25):
        optimizer.step(multiplier)
        assert optimizer.lr == 0.02 * multiplier
        assert {group["lr"] for group in optimizer.parts[1].param_groups} == {0.003 * multiplier}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.type)
def test_state_as_named_tensors_makes_the_same_next_step(config):
    model = with_gradients(tiny_model().build())
    optimizer = config.build(model)
    optimizer.step(1.0)
    twin = tiny_model().build()
    twin.load_state_dict(model.state_dict())
    copy = config.build(twin)
    copy.load_state(optimizer.state())
    for one, moved in ((optimizer, model), (copy, twin)):
        with_gradients(moved, seed=1)
        one.step(1.0)
    for mine, other in zip(model.parameters(), twin.parameters()):
        assert torch.equal(mine, other)
    assert optimizer.state().keys() == copy.state().keys()


def test_loaded_state_is_a_copy():
    model = with_gradients(tiny_model().build())
    optimizer = AdamWConfig().build(model)
    optimizer.step(1.0)
    state = {name: tensor.clone() for name, tensor in optimizer.state().items()}
    kept = {name: tensor.clone() for name, tensor in state.items()}
    optimizer.load_state(state)
    optimizer.step(1.0)
    assert all(torch.equal(state[name], kept[name]) for name in state)


def test_state_of_another_model_is_refused():
    with pytest.raises(ValueError, match=r"optimizer: must be the state of this model's parameters"):
        AdamWConfig().build(tiny_model().build()).load_state({"other.weight/exp_avg": torch.zeros(1)})
