"""Published models with parts that `Decoder` lacks, as shapes: enough to count them."""

from __future__ import annotations

from dataclasses import replace

from sparsemix.experts import GLUExpertsConfig
from sparsemix.layer import MoEConfig
from sparsemix.models.architectures.record import Architecture
from sparsemix.models.attention import AttentionConfig
from sparsemix.models.counts import shape_of
from sparsemix.models.decoder import DecoderConfig
from sparsemix.models.tally import vector
from sparsemix.routers import TopKRouterConfig


def _grok1() -> Architecture:
    config = DecoderConfig(
        vocab_size=131_072,
        dim=6144,
        num_layers=64,
        context=8192,
        attention=AttentionConfig(num_heads=48, num_kv_heads=8),
        moe=MoEConfig(
            num_experts=8,
            router=TopKRouterConfig(k=2, normalize=False),
            experts=GLUExpertsConfig(hidden=32_768, activation="gelu"),
        ),
        tie_embeddings=True,
        norm_eps=1e-5,
    )
    shape = shape_of(config)
    return Architecture(
        source="xai-org/grok-1, run.py and model.py",
        published="314B total, 25% of the weights active",
        context=config.context,
        shape=replace(shape, blocks=shape.blocks + 64 * 2 * vector(6144)),
        missing="norms after attention and experts, capped scores",
    )


COUNTED = {"grok-1": _grok1()}
