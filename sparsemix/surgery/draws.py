"""What surgery draws at random: each tensor from a stream of its own, seeded by the seed and a name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from sparsemix.layer import MoEConfig
from sparsemix.models import DecoderConfig, InitConfig, initialize
from sparsemix.models.init import stream_seed
from sparsemix.tensors import Recipe


def stream(seed: int, name: str) -> torch.Generator:
    """The generator of a name, as for the tensors of a new model."""
    return torch.Generator().manual_seed(stream_seed(f"{seed}/{name}"))


def normal_like(x: Tensor, generator: torch.Generator) -> Tensor:
    """Numbers of the mean and the standard deviation of x, of its shape and dtype."""
    wide = x.float()
    drawn = torch.randn(x.shape, generator=generator) * wide.std(correction=0) + wide.mean()
    return drawn.to(x.dtype)


def new_router(config: DecoderConfig, layer: int, std: float, seed: int, dtype: torch.dtype) -> dict[str, Recipe]:
    """Recipes of what the router of a block has in a new model, by their full names.

    Its matrices have the standard deviation `std`; other parameters begin as they do in training.
    """
    assert config.moe is not None
    init, moe = replace(config.init, router_std=std), config.moe

    def make(name: str) -> Tensor:
        tensor = _router(moe, config.dim, layer, init, seed)[name]
        return tensor.to(dtype) if tensor.is_floating_point() else tensor

    names = _router(moe, config.dim, layer, init, seed)
    return {name: Recipe((), lambda _, name=name: make(name)) for name in names}


def _router(moe: MoEConfig, dim: int, layer: int, init: InitConfig, seed: int) -> Mapping[str, Tensor]:
    module: nn.Module = nn.ModuleDict({"router": cast(nn.Module, moe.router.build(dim, moe.num_experts))})
    for name in ("ffn", str(layer), "blocks"):  # as in a decoder: names are streams
        module = nn.ModuleDict({name: module})
    initialize(module, init, seed)
    return module.state_dict()
