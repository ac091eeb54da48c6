"""Small decoders that the tests of models and inference share."""

import torch

from sparsemix.experts import GLUExpertsConfig
from sparsemix.layer import MoEConfig
from sparsemix.models import AttentionConfig, Decoder, DecoderConfig
from sparsemix.routers import TopKRouterConfig

MOE = MoEConfig(num_experts=4, router=TopKRouterConfig(k=2), experts=GLUExpertsConfig(hidden=12))


def small_config(**changes) -> DecoderConfig:
    values = {
        "vocab_size": 50,
        "dim": 16,
        "num_layers": 3,
        "context": 64,
        "attention": AttentionConfig(num_heads=4, num_kv_heads=2),
        "moe": MOE,
        "ffn": GLUExpertsConfig(hidden=24),
        "dense_first": 1,
    }
    return DecoderConfig(**(values | changes))


def small_decoder(seed: int = 0, dtype: torch.dtype = torch.float64, **changes) -> Decoder:
    return small_config(**changes).build(seed).to(dtype)


def random_tokens(*shape: int, seed: int = 0, vocab_size: int = 50) -> torch.Tensor:
    return torch.randint(vocab_size, shape, generator=torch.Generator().manual_seed(seed))
