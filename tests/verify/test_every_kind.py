"""Verification finds no fault in any router, in any kind of experts and in any balance loss as they are."""

import pytest
import torch
from routers.examples import EVERY_ROUTER, experts_for
from verify.examples import DIM, failed, layer, passed

from sparsemix import (
    ClampedGLUExpertsConfig,
    ConcatExpertsConfig,
    GLUExpertsConfig,
    LSTMExpertsConfig,
    MLPExpertsConfig,
    ModuleExpertsConfig,
    MoEConfig,
    MoEExpertsConfig,
    Part,
    ReLURouterConfig,
    TiedExpertsConfig,
    TopKRouterConfig,
)
from sparsemix.balance import (
    CommunicationLoss,
    CostLoss,
    DeviceLoss,
    GlobalEntropyLoss,
    ImportanceLoss,
    LocalEntropyLoss,
    NullLoss,
    SequenceLoss,
    SwitchLoss,
    ZLoss,
)
from sparsemix.verify import Subject, verify_layer
from sparsemix.verify.backends import check_backends
from sparsemix.verify.gates import EXACT
from sparsemix.verify.layer import check_router
from sparsemix.verify.losses import check_losses

GLU = GLUExpertsConfig(hidden=8)
EVERY_KIND = {
    "GLU": GLU,
    "GLU with biases": GLUExpertsConfig(hidden=6, bias=True, activation="gelu_tanh"),
    "clamped GLU": ClampedGLUExpertsConfig(hidden=6, limit=0.8),
    "MLP": MLPExpertsConfig(hidden=6, activation="gelu", bias=True),
    "modules": ModuleExpertsConfig(make=lambda dim: torch.nn.Sequential(torch.nn.Linear(dim, dim), torch.nn.Tanh())),
    "two widths": ConcatExpertsConfig(
        parts=(Part(num_experts=2, experts=GLU), Part(experts=MLPExpertsConfig(hidden=3)))
    ),
    "tied": TiedExpertsConfig(num_distinct=2, experts=GLU),
    "mixtures": MoEExpertsConfig(moe=MoEConfig(num_experts=3, router=TopKRouterConfig(k=2), experts=GLU)),
}
ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "relu", "relu2", "sigmoid", "identity", "cubic")
LOSSES = (
    *(SwitchLoss(form=form) for form in ("all", "all_times_k", "first", "gshard")),
    ZLoss(),
    ImportanceLoss(),
    ImportanceLoss(form="probs"),
    SequenceLoss(),
    DeviceLoss(num_devices=3),
    CommunicationLoss(num_devices=3, devices_per_token=2),
    LocalEntropyLoss(),
    LocalEntropyLoss(modality=1),
    GlobalEntropyLoss(min_experts=6),
    GlobalEntropyLoss(min_experts=5, modality=0),
    CostLoss(costs=(1.0, 0.5, 2.0, 1.0, 0.1, 3.0)),
    NullLoss(num_null=2),
)


@pytest.mark.parametrize("config", EVERY_ROUTER.values(), ids=EVERY_ROUTER)
def test_every_router_passes(config):
    moe = MoEConfig(num_experts=8, router=config, experts=experts_for(config, 8, 6)).build(DIM)
    findings = list(verify_layer(Subject(moe, "layer", (DIM,), 24, config.losses(8)), ["cpu"]))
    assert passed(findings), failed(findings)
    assert (next(row for row in findings if row.check == "router").passed is not None) == (config.type in EXACT)
    assert (next(row for row in findings if row.check == "causality").passed is not None) == config.causal


@pytest.mark.parametrize("experts", EVERY_KIND.values(), ids=EVERY_KIND)
def test_every_kind_of_experts_passes(experts):
    moe = layer(MoEConfig(num_experts=3, router=TopKRouterConfig(k=2), experts=experts))
    findings = list(verify_layer(Subject(moe, "layer", (DIM,), 12, ()), ["cpu", "native"]))
    assert passed(findings), failed(findings)
    inner = {row.where for row in findings if "inside" in row.where}
    assert len(inner) == (3 if experts.type == "moe" else 0)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_passes(activation):
    experts = GLUExpertsConfig(hidden=6, activation=activation)
    moe = layer(MoEConfig(num_experts=3, router=TopKRouterConfig(k=2), experts=experts))
    assert passed(verify_layer(Subject(moe, "layer", (DIM,), 12, ()), ["cpu"]))


def test_a_back_end_that_refuses_float64_passes():
    experts = MoEExpertsConfig(
        moe=MoEConfig(num_experts=2, router=TopKRouterConfig(k=2), experts=GLUExpertsConfig(hidden=8, backend="native"))
    )
    moe = layer(MoEConfig(num_experts=2, router=TopKRouterConfig(k=2), experts=experts))
    assert passed(verify_layer(Subject(moe, "layer", (DIM,), 12, ()), ["native"]))


def test_experts_of_sequences_pass():
    config = MoEConfig(num_experts=3, router=TopKRouterConfig(k=2), experts=LSTMExpertsConfig(hidden=4), item_dims=2)
    assert passed(verify_layer(Subject(config.build(DIM), "layer", (5, DIM), 8, ())))


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: str(loss)[:60])
def test_every_balance_loss_passes(loss):
    moe = MoEConfig(num_experts=6, router=TopKRouterConfig(k=2), experts=GLU).build(DIM)
    findings = list(check_losses(Subject(moe, "layer", (DIM,), 18, (loss,))))
    assert [row.passed for row in findings] == [True, True], failed(findings)


def test_a_router_whose_logits_tie_passes():
    moe = MoEConfig(num_experts=6, router=TopKRouterConfig(k=2), experts=GLU).build(DIM)
    torch.nn.init.zeros_(moe.router.weight_ED)
    assert passed(check_router(Subject(moe, "layer", (DIM,), 18, ())))


def test_a_router_that_gives_a_token_no_expert_passes():
    moe = MoEConfig(num_experts=6, router=ReLURouterConfig(k=2), experts=GLU).build(DIM)
    torch.nn.init.zeros_(moe.router.weight_ED)
    findings = [*check_backends(Subject(moe, "layer", (DIM,), 18, ()), ["cpu"])]
    assert passed(findings)
