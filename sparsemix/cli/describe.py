"""What a model is and costs, as plain JSON values: counts, parts, memory, the kernel chosen here."""

from __future__ import annotations

import platform
from collections import Counter
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

import sparsemix
from sparsemix.experts import GLUExpertsConfig, MLPExpertsConfig
from sparsemix.kernels.backend import choose_backend, native_refuses
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
"""Component of a parameter's name -> the part it counts for; the first that is here decides."""


def counted(counts: Counts) -> Facts:
    """The counts, and what training costs a token."""
    return asdict(counts) | {"training_flops_per_token": counts.training_flops_per_token}


def meta_model(config: DecoderConfig) -> Decoder:
    """The model with shapes and no memory."""
    with torch.device("meta"):
        return config.build()


def parameters_by_part(model: Decoder) -> dict[str, int]:
    """How many parameters each part has; together all of them."""
    sums: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        part = next((PARTS[component] for component in name.split(".") if component in PARTS), "dense ffn")
        sums[part] += parameter.numel()
    return dict(sums)


def memory(counts: Counts, optimizer_state: int) -> dict[str, int]:
    """Bytes of numbers that have to be kept; activations and the allocator's gaps come on top."""
    total = counts.parameters_total
    return {
        "weights_float32": 4 * total,
        "weights_bfloat16": 2 * total,
        "gradients_float32": 4 * total,
        "optimizer_state": optimizer_state,
        "kv_cache_per_token_float32": 4 * counts.kv_values_per_token,
        "kv_cache_per_token_bfloat16": 2 * counts.kv_values_per_token,
    }


def adamw_state(parameters: int) -> int:
    """Bytes of AdamW's two means in float32."""
    return 2 * 4 * parameters


def optimizer_state(model: Decoder, optimizer: OptimizerConfig) -> int:
    """Bytes: those of AdamW, but for Muon's matrices one mean alone."""
    sizes = {role: sum(one.numel() for one in members) for role, members in by_role(model).items()}
    matrices = 0 if isinstance(optimizer, AdamWConfig) else sizes.pop("matrix", 0)
    return 4 * matrices + adamw_state(sum(sizes.values()))


def kernel(config: DecoderConfig, precision: Precision) -> Facts | None:
    """Which kernel computes the experts on this machine, and why; None where none of ours does."""
    experts = None if config.moe is None else config.moe.experts
    if config.moe is None or not isinstance(experts, (GLUExpertsConfig, MLPExpertsConfig)):
        return None
    if experts.backend == "reference":
        return {"backend": "reference", "reason": "the config asks for it"}
    # The shapes of the experts over the memory of one number.
    one = torch.zeros((), dtype=precision.autocast or torch.float32, device=precision.device)
    rows = experts.hidden if isinstance(experts, MLPExpertsConfig) else 2 * experts.hidden
    x_TD = one.expand(1, config.dim)
    up_EGD = one.expand(config.moe.num_experts, rows, config.dim)
    down_EDF = one.expand(config.moe.num_experts, config.dim, experts.hidden)
    backend: Any = choose_backend(experts.backend, x_TD, up_EGD, down_EDF)
    asked = "" if experts.backend == "auto" else "the config asks for it"
    return {
        "backend": backend.__name__.rpartition(".")[2],
        "reason": asked or _why(x_TD, up_EGD, down_EDF),
    }


def _why(x_TD: Tensor, up_EGD: Tensor, down_EDF: Tensor) -> str:
    """What decided where the choice was left to us."""
    if not x_TD.is_cuda:
        return f"the device is {x_TD.device}"
    return native_refuses(x_TD, up_EGD, down_EDF) or "grouped_mm can serve the sizes and the type"


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
