"""Blocks lose their mixtures: those named, or those that change the least."""

from __future__ import annotations

import pytest
import torch
from surgery.models import EXPERTS, built, check_theory, dense, sparse, text

from sparsemix.models.block import Block
from sparsemix.surgery import DropLayerExpertsConfig, drop_layer_experts


def test_named_blocks_are_attention_alone() -> None:
    model = sparse(num_layers=3)
    after = drop_layer_experts(model, DropLayerExpertsConfig(layers=(0, 2)), text())
    assert [block.ffn is None for block in built(after.model).blocks] == [True, False, True]
    check_theory(model, after, exact=False)


def test_without_any_mixture_a_model_is_a_dense_one() -> None:
    model = sparse(num_layers=3, moe_every=2, ffn=EXPERTS)
    after = drop_layer_experts(model, DropLayerExpertsConfig(layers=(1,)), text()).model
    assert after.config.moe is None
    assert [block.ffn is None for block in built(after).blocks] == [False, True, False]


def test_blocks_that_change_the_least_are_found() -> None:
    model = sparse(num_layers=4)
    for layer, factor in {1: 1e-3, 2: 1e-4}.items():
        model.tensors.read(f"blocks.{layer}.ffn.experts.down_EDF").mul_(factor)
    found = [
        drop_layer_experts(model, DropLayerExpertsConfig(count=count), text()).decisions["dropped"] for count in (1, 2)
    ]
    assert found == [[2], [1, 2]]


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_likeness_is_the_mean_cosine_around_the_mixture(scale) -> None:
    model = sparse(residual_scale=scale)
    seen = {}

    def look(block: Block, args, output) -> None:
        x = args[0] + scale * block.attention(block.attention_norm(args[0]), args[1].rotary, args[1].mask)
        seen[block.layer] = torch.cosine_similarity(x, output.x_BSD, dim=-1).mean().item()

    decoder = built(model)
    for block in decoder.blocks:
        block.register_forward_hook(look)
    with torch.no_grad():
        decoder(text().tokens_BS)
    found = drop_layer_experts(model, DropLayerExpertsConfig(count=1), text()).decisions["similarity"]
    assert found == pytest.approx({str(layer): value for layer, value in seen.items()})


@pytest.mark.parametrize(
    ("model", "settings", "complaint"),
    [
        (lambda: dense(), {"count": 1}, "model: must have a mixture"),
        (lambda: sparse(), {}, "layers: must be given"),
        (lambda: sparse(), {"layers": (0,), "count": 1}, "layers: must be given"),
        (lambda: sparse(), {"layers": (2,)}, "layers: must be among"),
        (lambda: sparse(), {"count": 3}, "count: must be at most the 2"),
    ],
)
def test_refuses(model, settings, complaint) -> None:
    with pytest.raises(ValueError, match=complaint):
        drop_layer_experts(model(), DropLayerExpertsConfig(**settings), text())
