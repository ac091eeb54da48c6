"""A model run block by block gives what the whole decoder gives, with the weights of one block in memory."""

from __future__ import annotations

import weakref

import pytest
import torch
from cases import same
from models.examples import RESIDUAL, random_tokens
from surgery.examples import small_model, stored
from torch import Tensor

from sparsemix.experts import GLUExpertsConfig, MLPExpertsConfig
from sparsemix.interop.stored import StoredModel
from sparsemix.layer import MoEConfig
from sparsemix.models import DepthConfig, LatentAttentionConfig, WindowConfig
from sparsemix.routers import GroupLimitedRouterConfig
from sparsemix.surgery.walk import final_hidden, unembedder, walk
from sparsemix.tensors import Held

SHARED = MoEConfig(
    num_experts=4,
    router=GroupLimitedRouterConfig(k=2, num_groups=2, keep_groups=1),
    experts=MLPExpertsConfig(hidden=8, bias=True),
    shared=GLUExpertsConfig(hidden=6),
    shared_gate=True,
    routed_scale=2.5,
)
MODELS = {
    "dense first": {},
    "every other block": {"moe_every": 2, "num_layers": 4},
    "dense": {"moe": None},
    "attention alone": {"moe": None, "ffn": None},
    "tied": {"tie_embeddings": True},
    "shared expert": {"moe": SHARED},
    "router that builds on the one below": {"moe": RESIDUAL, "dense_first": 0},
    "mixture of depths": {"depth": DepthConfig(every=2)},
    "windows in some blocks": {"window": WindowConfig(size=3, layers=(0, 2))},
    "scales": {"embedding_scale": 3.0, "residual_scale": 0.3, "logit_scale": 0.2},
    "blocks without FFN": {"without_ffn": (2,), "dense_layers": (1,), "dense_first": 0},
    "latent attention": {
        "attention": LatentAttentionConfig(num_heads=4, kv_rank=6, nope_dim=4, rope_dim=2, value_dim=5)
    },
}


@pytest.mark.parametrize("changes", MODELS.values(), ids=MODELS)
def test_it_gives_what_the_decoder_gives(changes):
    model, decoder = small_model(**changes)
    batches = [random_tokens(2, 9), random_tokens(1, 7, seed=1)]
    with torch.no_grad():
        for tokens_BS, hidden_BSD in zip(batches, final_hidden(model, batches), strict=True):
            expected_BSD = decoder(tokens_BS).hidden_BSD
            same(hidden_BSD, expected_BSD)
            same(unembedder(model).logits(hidden_BSD), decoder.logits(expected_BSD))


def test_it_shows_what_goes_through_each_block_and_mixture():
    model, decoder = small_model(moe=SHARED)
    batches = [random_tokens(2, 9), random_tokens(1, 7, seed=1)]
    with torch.no_grad():
        routings = [decoder(tokens_BS).collected for tokens_BS in batches]
    below: list[Tensor] = []
    for layer, step in enumerate(walk(model, batches)):
        assert step.layer == layer
        assert len(step.mixed) == (2 if layer else 0)
        assert layer == 0 or all(a is b for a, b in zip(below, step.before, strict=True))
        below = step.after
        for batch, mixed in enumerate(step.mixed):
            y_TD, routing = decoder.blocks[layer].ffn(mixed.x_TD)
            same(mixed.y_TD, y_TD.detach())
            assert mixed.routing.expert_N.equal(routing.expert_N)
            assert mixed.routing.expert_N.equal(routings[batch][layer - 1].expert_N)


def test_bfloat16_is_computed_in_float32():
    model, decoder = small_model(dtype=torch.bfloat16)
    tokens_BS = random_tokens(2, 9)
    (hidden_BSD,) = final_hidden(model, [tokens_BS])
    with torch.no_grad():
        same(hidden_BSD, decoder.float()(tokens_BS).hidden_BSD, tolerance=1e-6)


def test_more_tokens_than_the_context_are_refused():
    model, _ = small_model(context=8)
    with pytest.raises(ValueError, match="at most context=8 tokens, got 9"):
        final_hidden(model, [random_tokens(1, 9)])


class Fleeting(Held):
    """Gives copies, and knows how many numbers of them are still in use."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__(tensors)
        self.alive: dict[int, int] = {}
        self.order: list[str] = []
        self.most = 0

    def read(self, name: str) -> Tensor:
        copy = super().read(name).clone()
        storage, key = copy.untyped_storage(), len(self.order)
        self.order.append(name)
        self.alive[key] = copy.numel()
        weakref.finalize(storage, self.alive.pop, key)
        self.most = max(self.most, sum(self.alive.values()))
        return copy


def test_no_two_blocks_are_in_memory_and_each_tensor_is_read_once():
    _, decoder = small_model(dense_first=0, num_layers=4, tie_embeddings=True)
    source = Fleeting(decoder.state_dict())
    model: StoredModel = stored(decoder)._replace(tensors=source)
    block = sum(tensor.numel() for tensor in decoder.blocks[0].state_dict().values())
    for step in walk(model, [random_tokens(2, 9)]):
        assert sum(source.alive.values()) == block, step.layer
    assert source.most == block
    assert len(source.order) == len(set(source.order))
    assert set(source.order) == set(model.tensors.specs) - {"norm.weight"}
