"""What a model is and costs, as plain JSON values: counts, parts, memory, the kernel chosen here."""

from __future__ import annotations

import platform
from collections import Counter
from dataclasses import asdict
from typing import Any

import torch

import sparsemix
from sparsemix.experts import MLPExpertsConfig, ModuleExpertsConfig
from sparsemix.kernels.backend import choose_backend, native_refuses
from sparsemix.layer import MoEConfig
from sparsemix.models import Decoder, DecoderConfig
from sparsemix.models.counts import Counts
from sparsemix.train import AdamWConfig, OptimizerConfig, Precision
from sparsemix.train.optim import by_role

Facts = dict[str, Any]

PARTS = {
    "embedding": "embedding",
    "unembedding": "unembedding",
    "attention": "attention",
    "router": "routers",
    "experts": "routed experts",
    "shared": "shared experts",
    "shared_gate": "shared experts",
    "attention_norm": "norms",
    "ffn_norm": "norms",
    "norm": "norms",
}
"""Component of a parameter's name -> the part it is counted in; the first component that is one of these says it."""


def meta_model(config: DecoderConfig) -> Decoder:
    """The model with shapes and no memory."""
    with torch.device("meta"):
        return config.build()


def counts(found: Counts) -> Facts:
    """The counts as they are, and what a training step costs a token."""
    return asdict(found) | {"training_flops_per_token": found.training_flops_per_token}


def parameters_by_part(model: Decoder) -> dict[str, int]:
    """How many parameters each part has; together all of them."""
    sums: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        part = next((PARTS[component] for component in name.split(".") if component in PARTS), "dense ffn")
        sums[part] += parameter.numel()
    return dict(sums)


def memory(found: Counts, optimizer_state: int) -> Facts:
    """Bytes, of numbers alone: no activations, no allocator."""
    total = found.parameters_total
    return {
        "weights_float32": 4 * total,
        "weights_bfloat16": 2 * total,
        "gradients_float32": 4 * total,
        "optimizer_state": optimizer_state,
        "kv_cache_per_token_float32": 4 * found.kv_values_per_token,
        "kv_cache_per_token_bfloat16": 2 * found.kv_values_per_token,
    }


def adamw_state(parameters: int) -> int:
    """Bytes of AdamW's two float32 means."""
    return 2 * 4 * parameters


def optimizer_state(model: Decoder, optimizer: OptimizerConfig) -> int:
    """Bytes of the optimiser's state: two numbers a parameter, but one for Muon's matrices."""
    sizes = {role: sum(one.numel() for one in members) for role, members in by_role(model).items()}
    if isinstance(optimizer, AdamWConfig):
        return adamw_state(sum(sizes.values()))
    matrices = sizes.pop("matrix", 0)
    return 4 * matrices + adamw_state(sum(sizes.values()))


def kernel(config: DecoderConfig, precision: Precision) -> Facts | None:
    """Which kernel computes the experts on this machine, and why; None where none of ours does."""
    if config.moe is None or isinstance(config.moe.experts, ModuleExpertsConfig):
        return None
    asked = config.moe.experts.backend
    if asked == "reference":
        return {"backend": asked, "reason": "the config asks for it"}
    tensors = _like_the_experts(config.moe, config.dim, precision)
    backend: Any = choose_backend(asked, *tensors)
    name = backend.__name__.rpartition(".")[2]
    if asked != "auto":
        return {"backend": name, "reason": "the config asks for it"}
    if precision.device.type != "cuda":
        return {"backend": name, "reason": f"the device is {precision.device}"}
    return {"backend": name, "reason": native_refuses(*tensors) or "F.grouped_mm serves these tensors"}


def environment(precision: Precision) -> Facts:
    """Versions, device and precision."""
    return {
        "sparsemix": sparsemix.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": str(precision.device),
        "dtype": "float32" if precision.autocast is None else str(precision.autocast).removeprefix("torch."),
        "threads": torch.get_num_threads(),
    }


def _like_the_experts(
    moe: MoEConfig, dim: int, precision: Precision
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tensors on the device with the shapes of x, the up and the down projections, over one number of memory."""
    assert not isinstance(moe.experts, ModuleExpertsConfig)
    hidden, num_experts = moe.experts.hidden, moe.num_experts
    rows = hidden if isinstance(moe.experts, MLPExpertsConfig) else 2 * hidden
    one = torch.zeros((), dtype=precision.autocast or torch.float32, device=precision.device)
    return one.expand(1, dim), one.expand(num_experts, rows, dim), one.expand(num_experts, dim, hidden)
