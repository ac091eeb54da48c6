"""A dense model that becomes a mixture does what it did wherever theory says so, and only there."""

from __future__ import annotations

import pytest
import torch
from surgery.models import HIDDEN, built, change, check_theory, dense, kind_of, sparse

from sparsemix import (
    CapacityConfig,
    ClampedGLUExpertsConfig,
    DenseRouterConfig,
    ExpertChoiceRouterConfig,
    GLUExpertsConfig,
    GroupLimitedRouterConfig,
    HashRouterConfig,
    HierarchicalRouterConfig,
    MLPExpertsConfig,
    NoisyTopKRouterConfig,
    ReLURouterConfig,
    SelectionBiasConfig,
    SwitchRouterConfig,
    TopKRouterConfig,
    TopPRouterConfig,
    balance_loss,
)
from sparsemix.surgery import UpcycleConfig, upcycle
from sparsemix.tensors import Held

KINDS = [
    GLUExpertsConfig(hidden=HIDDEN),
    GLUExpertsConfig(hidden=HIDDEN, activation="relu", bias=True),
    ClampedGLUExpertsConfig(hidden=HIDDEN),
    MLPExpertsConfig(hidden=HIDDEN, activation="relu2", bias=True),
]
SUM_TO_ONE = [
    TopKRouterConfig(),
    TopKRouterConfig(gate="topk_softmax", bias=True),
    TopKRouterConfig(gate="sigmoid", selection_bias=SelectionBiasConfig()),
    TopKRouterConfig(k=8, normalize=False),
    TopKRouterConfig(capacity=CapacityConfig(factor=1.0)),  # which evaluation knows nothing of
    GroupLimitedRouterConfig(k=3, num_groups=4, keep_groups=2),
    NoisyTopKRouterConfig(),
    DenseRouterConfig(),
    TopPRouterConfig(p=0.2, normalize=True),
    HashRouterConfig(vocab_size=17, k=3),
    HierarchicalRouterConfig(num_groups=4),
]
OTHERS = [
    TopKRouterConfig(normalize=False),
    TopKRouterConfig(gate="sigmoid", normalize=False),
    TopKRouterConfig(capacity=CapacityConfig(factor=1.0, factor_eval=0.5)),
    SwitchRouterConfig(),
]


@pytest.mark.parametrize("kind", KINDS, ids=kind_of)
def test_copies_of_any_ffn_are_the_ffn(kind) -> None:
    model = dense(kind=kind)
    check_theory(model, upcycle(model, UpcycleConfig()), exact=True)


@pytest.mark.parametrize("router", SUM_TO_ONE, ids=kind_of)
def test_copies_are_the_ffn_where_weights_add_up_to_one(router) -> None:
    model = dense(allow_leak=True)  # as a capacity does
    check_theory(model, upcycle(model, UpcycleConfig(router=router, router_std=0.5)), exact=True)


@pytest.mark.parametrize("router", OTHERS, ids=kind_of)
def test_they_are_not_where_weights_do_not(router) -> None:
    model = dense(allow_leak=True)  # as a capacity does
    check_theory(model, upcycle(model, UpcycleConfig(router=router, router_std=0.5)), exact=False)


def test_scaling_makes_up_for_weights_that_add_up_to_less() -> None:
    """Logits of 0 give each expert 1 / E or a half."""
    model = dense()
    for router in (TopKRouterConfig(normalize=False), TopKRouterConfig(gate="sigmoid", normalize=False)):
        assert change(model, upcycle(model, UpcycleConfig(router=router, router_std=0))) < 1e-10


@pytest.mark.parametrize("kind", KINDS, ids=kind_of)
@pytest.mark.parametrize("k", [3, 6])
@pytest.mark.parametrize("gate", ["softmax_topk", "topk_softmax", "sigmoid"])
def test_virtual_groups_choose_whole_copies(kind, k, gate) -> None:
    model, router = dense(kind=kind), TopKRouterConfig(k=k, gate=gate)
    settings = UpcycleConfig(num_experts=12, num_shards=3, router=router, router_std=0.5)
    check_theory(model, upcycle(model, settings), exact=True)


def test_experts_that_all_tie_are_not_chosen_as_whole_copies() -> None:
    model = dense()
    settings = UpcycleConfig(num_experts=12, num_shards=3, router=TopKRouterConfig(k=3), router_std=0)
    check_theory(model, upcycle(model, settings), exact=False)


def test_half_a_copy_is_not_the_ffn() -> None:
    model = dense()
    settings = UpcycleConfig(num_experts=12, num_shards=3, router=TopKRouterConfig(k=4), router_std=0.5)
    check_theory(model, upcycle(model, settings), exact=False)


@pytest.mark.parametrize(("kind", "exact"), [*zip(KINDS, [False, True, False, True])], ids=kind_of)
def test_a_factor_on_each_projection_is_one_on_the_output_of_cubic_experts(kind, exact) -> None:
    model = dense(kind=kind)
    settings = UpcycleConfig(num_experts=12, num_shards=3, router=TopKRouterConfig(k=3), scaling="cube_root")
    check_theory(model, upcycle(model, settings), exact)


@pytest.mark.parametrize(("experts", "k", "shards", "factor"), [(64, 8, 8, 4.0), (64, 1, 8, 8.0), (8, 1, 1, 2.0)])
def test_published_factors(experts, k, shards, factor) -> None:
    """(E G^2 / T)^(1/3) for E copies of each of G shards, of which T are chosen."""
    kind = GLUExpertsConfig(hidden=16)
    model, router = dense(kind=kind), TopKRouterConfig(k=k, normalize=False)
    settings = UpcycleConfig(num_experts=experts, num_shards=shards, router=router, scaling="cube_root")
    after = upcycle(model, settings).model.tensors
    was, now = model.tensors.read("blocks.0.ffn.down_DF"), after.read("blocks.0.ffn.experts.down_EDF")
    torch.testing.assert_close(now[0], was[:, : 16 // shards] * factor)


def test_weights_drawn_anew_are_so_many_and_like_the_others() -> None:
    model = dense(kind=GLUExpertsConfig(hidden=400))
    after = upcycle(model, UpcycleConfig(noise=0.25))
    assert not after.theory.exact
    was, now = (
        model.tensors.read("blocks.1.ffn.gate_up_FD"),
        after.model.tensors.read("blocks.1.ffn.experts.gate_up_EFD"),
    )
    changed = now != was
    assert 0.23 < changed.double().mean() < 0.27
    assert now[changed].std().item() == pytest.approx(was.std().item(), rel=0.05)
    assert not torch.equal(now[0], now[1])


def test_dropped_hidden_units_lose_all_their_weights_and_no_other_does() -> None:
    model = dense()
    after = upcycle(model, UpcycleConfig(drop=0.5)).model.tensors
    up = after.read("blocks.0.ffn.experts.gate_up_EFD") != model.tensors.read("blocks.0.ffn.gate_up_FD")
    down = after.read("blocks.0.ffn.experts.down_EDF") != model.tensors.read("blocks.0.ffn.down_DF")
    gate, value = up.all(-1).chunk(2, dim=1)
    assert torch.equal(gate, value)
    assert torch.equal(gate, down.all(1))
    assert torch.equal(up.any(-1), up.all(-1))
    assert gate.sum(1).tolist() == [HIDDEN // 2] * 8
    assert not torch.equal(gate[0], gate[1])


def test_other_blocks_stay_dense() -> None:
    model = dense(num_layers=4)
    after = upcycle(model, UpcycleConfig(moe_every=2))
    assert after.model.config.moe_layers == (1, 3)
    check_theory(model, after, exact=True)
    assert "blocks.0.ffn.down_DF" in after.model.tensors.specs


def test_each_tensor_is_read_once() -> None:
    model = dense()
    after = upcycle(model, UpcycleConfig(noise=0.5)).model
    assert not model.tensors.reads
    built(after)
    assert set(model.tensors.reads.values()) == {1}


def test_the_seed_draws_routers_and_weights() -> None:
    model = dense()
    first, again, other = (upcycle(model, UpcycleConfig(seed=seed, noise=0.1)).model for seed in (3, 3, 4))
    for name in ("blocks.0.ffn.router.weight_ED", "blocks.0.ffn.experts.down_EDF"):
        assert torch.equal(first.tensors.read(name), again.tensors.read(name))
        assert not torch.equal(first.tensors.read(name), other.tensors.read(name))
    weights = [first.tensors.read(f"blocks.{layer}.ffn.router.weight_ED") for layer in (0, 1)]
    assert not torch.equal(*weights)


def test_a_model_in_bfloat16_stays_so_but_for_its_routers() -> None:
    model = dense()
    halved = {name: model.tensors.read(name).bfloat16() for name in model.tensors.specs}
    after = upcycle(model._replace(tensors=Held(halved)), UpcycleConfig(noise=0.5)).model.tensors
    assert {name for name, spec in after.specs.items() if spec.dtype != torch.bfloat16} == {
        f"blocks.{layer}.ffn.router.weight_ED" for layer in (0, 1)
    }
    assert {after.read(name).dtype for name in after.specs} == {torch.bfloat16, torch.float32}


def test_experts_that_are_alike_get_gradients_that_differ_and_the_router_gets_some() -> None:
    """The loss is the same whoever is chosen, but not after a step of training with weights drawn anew."""
    decoder = built(upcycle(dense(), UpcycleConfig(noise=0.1, router_std=0.5)).model).train()
    moe = decoder.blocks[0].ffn
    output = decoder(torch.randint(17, (4, 16)))
    (decoder.logits(output.hidden_BSD).logsumexp(-1).mean() + balance_loss(output.collected[0])).backward()
    assert moe.router.weight_ED.grad.abs().max() > 1e-6
    gradient = moe.experts.down_EDF.grad
    assert (gradient.abs().amax((1, 2)) > 1e-8).all()
    assert not torch.allclose(gradient[0], gradient[1])


@pytest.mark.parametrize(
    ("model", "settings", "complaint"),
    [
        (sparse(), {}, "model: must be dense"),
        (dense(), {"num_shards": 5}, "num_shards: must divide the 12"),
        (dense(), {"num_shards": 3}, "num_experts: must be copies of all 3"),
        (dense(), {"num_shards": 4, "router": SwitchRouterConfig()}, "router: must be topk"),
        (dense(), {"router": ReLURouterConfig()}, "scaling: must be none"),
        (dense(), {"moe_every": 3}, "moe_every: must leave"),
        (dense(), {"num_experts": 2, "router": TopKRouterConfig(k=3)}, "k: must be in"),
        (dense(), {"router": ExpertChoiceRouterConfig(), "scaling": "none"}, "router: must be causal"),
    ],
)
def test_refuses(model, settings, complaint) -> None:
    with pytest.raises(ValueError, match=complaint):
        upcycle(model, UpcycleConfig(**settings))
