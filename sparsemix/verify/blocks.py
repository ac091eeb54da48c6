"""The mixtures of a stored model one after the other, with the memory of one: for models that have no room."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from sparsemix.balance import Loss
from sparsemix.checks import check
from sparsemix.interop import StoredModel
from sparsemix.kernels import BackendName
from sparsemix.layer import MoE
from sparsemix.tensors import Spec
from sparsemix.verify.backends import BACKENDS
from sparsemix.verify.finding import Finding
from sparsemix.verify.proof import verify_layer
from sparsemix.verify.situations import Subject

BYTES_PER_PARAMETER = 32
"""Of a whole decoder under all checks: itself, gradients twice, and a copy that takes a step of AdamW, in float32."""


def verify_blocks(
    model: StoredModel,
    layers: Sequence[int],
    losses: Sequence[Loss],
    num_tokens: int,
    device: torch.device,
    backends: Sequence[BackendName] = BACKENDS,
) -> Iterator[Finding]:
    """All that can be proven of these mixtures alone, on random tokens and in float32."""
    for layer in layers:
        moe = read_mixture(model, layer).to(device)
        subject = Subject(moe, f"block {layer}", (model.config.dim,), num_tokens, tuple(losses))
        yield from verify_layer(subject, backends)


def read_mixture(model: StoredModel, layer: int) -> MoE:
    """The mixture of one block, in float32."""
    assert model.config.moe is not None
    with torch.device("meta"):
        moe = model.config.moe.build(model.config.dim)
    moe = moe.to_empty(device="cpu").float()
    with torch.no_grad():
        for name, tensor in moe.state_dict().items():
            tensor.copy_(model.tensors.read(f"blocks.{layer}.ffn.{name}"))
    return moe


def check_room(specs: Mapping[str, Spec], device: torch.device, remedy: str) -> None:
    """Refuse a model whose verification would drive the machine into its swap.

    Raises:
        ValueError: the CPU's memory has not the room.
    """
    needed, free = BYTES_PER_PARAMETER * sum(math.prod(spec.shape) for spec in specs.values()), free_memory()
    seen = f"{needed / 1e9:.1f} GB with {free / 1e9:.1f} GB free"
    rule = "all checks of the whole model must have room"
    check(device.type != "cpu" or needed <= free, "memory", rule, seen, remedy)


def free_memory() -> int:
    """Bytes that programs can have without swapping; where Linux does not say, those that are unused."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = dict(line.split(":") for line in meminfo.read_text().splitlines())
        return 1024 * int(lines["MemAvailable"].split()[0])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
