"""Small decoders that the tests of models and inference share."""

import torch
from torch import nn

from sparsemix.config import config
from sparsemix.experts import GLUExpertsConfig
from sparsemix.layer import MoEConfig
from sparsemix.models import AttentionConfig, Decoder, DecoderConfig, LatentAttentionConfig, WindowConfig
from sparsemix.routers import TopKRouterConfig
from sparsemix.routing import Routing

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


class Adapted(nn.Module):
    """A projection as adapters leave it: its `weight` is not all that it computes with."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base

    @property
    def weight(self) -> torch.Tensor:
        return self.base.weight

    def forward(self, x):
        return self.base(x) + x.sum(-1, keepdim=True)


@config
class ResidualRouterConfig(TopKRouterConfig):
    """logits = W x + residual * (logits of the mixture below): softmax, the k best, normalised."""

    def build(self, dim: int, num_experts: int) -> "Residual":
        return Residual(dim, num_experts, self.k)


class Residual(nn.Module):
    causal, reads_previous = True, True

    def __init__(self, dim: int, num_experts: int, k: int) -> None:
        super().__init__()
        self.num_experts, self.k = num_experts, k
        self.weight_ED = nn.Parameter(torch.zeros(num_experts, dim))
        self.residual_E = nn.Parameter(torch.zeros(num_experts))

    def forward(self, x_TD, info=None, previous=None):
        logits_TE = x_TD @ self.weight_ED.T
        if previous is not None:
            logits_TE = logits_TE + self.residual_E * previous.logits_TE
        weight_TK, expert_TK = logits_TE.softmax(-1).topk(self.k)
        weight_N = (weight_TK / weight_TK.sum(-1, keepdim=True)).flatten()
        token_N = torch.arange(len(x_TD)).repeat_interleave(self.k)
        return Routing(token_N, expert_TK.flatten(), weight_N, logits_TE=logits_TE, edges_per_token=self.k, info=info)


RESIDUAL = MoEConfig(num_experts=4, router=ResidualRouterConfig(k=2), experts=GLUExpertsConfig(hidden=12))
LATENT = LatentAttentionConfig(num_heads=2, q_rank=6, kv_rank=5, nope_dim=4, rope_dim=4, value_dim=6)
WITH_SINKS = {"attention": AttentionConfig(num_heads=4, num_kv_heads=2, sinks=True), "window": WindowConfig(size=3)}
