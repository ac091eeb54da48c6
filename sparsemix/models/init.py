"""The initialisation of a whole model, written down in one place.

Each matrix is drawn from a stream of its own, seeded by the seed, the parameter's name and, in a stack of
experts, the expert: adding a layer or experts changes no other weight, and an MoE and its dense twin begin
with the same attention, norms and embeddings, whatever the device.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from typing import Any, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from sparsemix.config import config


@config
class InitConfig:
    """Standard deviations of the normal distributions of weights; biases and sinks are 0, and weights of norms 1."""

    gain: float = Field(default=1.0, ge=0)
    """Matrices have standard deviation gain / sqrt(fan_in), unless `std` is given."""
    std: float | None = Field(default=None, ge=0)
    """One standard deviation for all matrices."""
    embedding_std: float | None = Field(default=None, ge=0)
    """That of the embedding; None: 1, or 1 / sqrt(dim) where it is tied to the unembedding."""
    unembedding_std: float | None = Field(default=None, ge=0)
    """That of an unembedding of its own; None: as other matrices."""
    router_std: float | None = Field(default=None, ge=0)
    """That of routers; None: as other matrices."""
    scale_residual: bool = False
    """Divide that of the projections that write to the residual stream by sqrt(2 * layers)."""


@torch.no_grad()
def initialize(decoder: nn.Module, init: InitConfig, seed: int) -> None:
    """Draw every parameter of `decoder` in place, from float32 numbers made on the CPU.

    Args:
        decoder: a decoder, or a part of one; parameters are told apart by their names. Parameters on the
            meta device are left alone.
        init: the standard deviations.
        seed: with equal seed and name, a matrix is equal.
    """
    parameters = dict(decoder.named_parameters())
    tied = "unembedding.weight" not in parameters
    num_layers = len({name.split(".")[1] for name in parameters if name.startswith("blocks.")})
    started = _let_start(decoder, seed)
    for name, parameter in parameters.items():
        if parameter.is_meta or name in started:
            continue
        constant = _constant(name, parameter)
        if constant is not None:
            parameter.fill_(constant)
            continue
        std = _std(name, parameter, init, tied)
        if init.scale_residual and _writes_to_residual(name):
            std /= math.sqrt(2 * max(num_layers, 1))
        for stream, matrix in _matrices(name, parameter):
            matrix.copy_(_normal(matrix.shape, f"{seed}/{stream}") * std)


def _let_start(decoder: nn.Module, seed: int) -> set[str]:
    """Let the modules that `starts_by_itself` do so, from streams of their own; the names of their parameters."""
    found = set()
    for name, module in decoder.named_modules():
        if getattr(module, "starts_by_itself", False):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(stream_seed(f"{seed}/{name}"))
                cast(Any, module).reset_parameters()
            found |= {f"{name}.{leaf}" for leaf, _ in module.named_parameters()}
    return found


def _constant(name: str, parameter: Tensor) -> float | None:
    leaf = name.rpartition(".")[2]
    if "bias" in leaf or leaf.startswith(("noise", "sink")):  # noisy gating begins with equal noise for every expert
        return 0.0
    if parameter.ndim < 2:
        return 1.0
    return None


def _std(name: str, parameter: Tensor, init: InitConfig, tied: bool) -> float:
    fan_in = parameter[0].numel() if parameter.ndim == 2 else parameter[0, 0].numel()
    own = None
    if name == "embedding.weight":
        default = 1 / math.sqrt(fan_in) if tied else 1.0
        own = default if init.embedding_std is None else init.embedding_std
    elif name == "unembedding.weight":
        own = init.unembedding_std
    elif "router" in name.split("."):
        own = init.router_std
    if own is not None:
        return own
    return init.gain / math.sqrt(fan_in) if init.std is None else init.std


def _writes_to_residual(name: str) -> bool:
    *_, parent, leaf = ["", *name.split(".")]
    return leaf.startswith("down") or parent == "output"


def _matrices(name: str, parameter: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The matrix itself, or those of a stack, each with the name of its stream."""
    if parameter.ndim == 2:
        yield name, parameter
    else:
        yield from ((f"{name}/{i}", matrix) for i, matrix in enumerate(parameter))


def _normal(shape: torch.Size, stream: str) -> Tensor:
    generator = torch.Generator().manual_seed(stream_seed(stream))
    return torch.randn(shape, generator=generator, device="cpu", dtype=torch.float32)


def stream_seed(stream: str) -> int:
    """The seed of a stream of random numbers, by name: what is drawn from others does not change what it gives."""
    return int.from_bytes(hashlib.sha256(stream.encode()).digest()[:8], "big") >> 1
