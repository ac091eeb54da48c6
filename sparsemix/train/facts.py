"""What a run runs on: written down when it starts, compared when it goes on."""

from __future__ import annotations

import logging
import platform
from datetime import UTC, datetime
from typing import Any

import torch

import sparsemix
from sparsemix.experts import GLUExpertsConfig, MLPExpertsConfig
from sparsemix.kernels import BackendName, Choice, ExpertWeights, choose_backend, onednn_is_faster
from sparsemix.models import DecoderConfig
from sparsemix.train.config import TrainConfig
from sparsemix.train.precision import Precision, multiplies_bfloat16
from sparsemix.train.trainer import Trainer

LOG = logging.getLogger(__name__)
MATTERS = ("sparsemix", "torch", "device", "autocast", "bfloat16", "onednn", "threads", "backend")
"""Which facts can change the last bits of a loss."""


def facts(trainer: Trainer, config: TrainConfig) -> dict[str, Any]:
    """Versions, device, precision, who multiplies matrices, threads, chosen kernel, seed, time: JSON."""
    precision = trainer.precision
    chosen = kernel(config.model, precision)
    return {
        "sparsemix": sparsemix.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": str(precision.device),
        "autocast": None if precision.autocast is None else str(precision.autocast).removeprefix("torch."),
        "bfloat16": multiplies_bfloat16(precision.device),
        "onednn": precision.device.type == "cpu" and onednn_is_faster(),
        "threads": torch.get_num_threads(),
        "backend": None if chosen is None else chosen.name,
        "backend_reason": None if chosen is None else chosen.reason,
        "seed": config.seed,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def warn_of_changes(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Say so if a run goes on under other circumstances than it was started under."""
    changed = [f"{name} {before.get(name)} -> {now[name]}" for name in MATTERS if before.get(name) != now[name]]
    if changed:
        LOG.warning("resumed with %s: losses may differ in the last bits from an uninterrupted run", ", ".join(changed))


def kernel(model: DecoderConfig, precision: Precision) -> Choice | None:
    """Which kernel computes the experts there, and why; None where none of ours does."""
    experts = None if model.moe is None else model.moe.experts
    if model.moe is None or not isinstance(experts, GLUExpertsConfig | MLPExpertsConfig):
        return None
    rows = experts.hidden if isinstance(experts, MLPExpertsConfig) else 2 * experts.hidden
    return _choose(experts.backend, precision, model.moe.num_experts, rows, model.dim, experts.hidden)


def usual_kernel(precision: Precision) -> Choice:
    """Which kernel `auto` takes there for experts whose widths suit any."""
    return _choose("auto", precision, num_experts=1, rows=128, dim=64, hidden=64)


def _choose(backend: BackendName, precision: Precision, num_experts: int, rows: int, dim: int, hidden: int) -> Choice:
    """For shapes of experts over the memory of one number."""
    one = torch.zeros((), dtype=precision.autocast or torch.float32, device=precision.device)
    weights = ExpertWeights(one.expand(num_experts, rows, dim), one.expand(num_experts, dim, hidden))
    return choose_backend(backend, one.expand(1, dim), weights)
