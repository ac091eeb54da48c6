"""What a model is and costs, as plain JSON values: counts, parts, memory, environment."""

from __future__ import annotations

import platform
from collections import Counter
from dataclasses import asdict
from typing import Any

import torch

import sparsemix
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
