"""What a run runs on: written down when it starts, compared when it goes on."""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import torch

import sparsemix
from sparsemix.experts import (
    ClampedGLUExpertsConfig,
    ConcatExpertsConfig,
    DenseConfig,
    ExpertsConfig,
    GLUExpertsConfig,
    MLPExpertsConfig,
)
from sparsemix.kernels import BackendName, ExpertWeights, choose_backend, onednn_is_faster
from sparsemix.layer import MoEExpertsConfig
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
    backend, reason = kernel(config.model, precision) or (None, None)
    return {
        "sparsemix": sparsemix.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": str(precision.device),
        "autocast": None if precision.autocast is None else str(precision.autocast).removeprefix("torch."),
        "bfloat16": multiplies_bfloat16(precision.device),
        "onednn": precision.device.type == "cpu" and onednn_is_faster(),
        "threads": torch.get_num_threads(),
        "backend": backend,
        "backend_reason": reason,
        "seed": config.seed,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def warn_of_changes(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Say so if a run goes on under other circumstances than it was started under."""
    changed = [f"{name} {before.get(name)} -> {now[name]}" for name in MATTERS if before.get(name) != now[name]]
    if changed:
        LOG.warning("resumed with %s: losses may differ in the last bits from an uninterrupted run", ", ".join(changed))


def kernel(model: DecoderConfig, precision: Precision) -> tuple[str, str] | None:
    """Which kernel computes the experts there, and why; several where kinds differ, None where it is none of ours."""
    if model.moe is None:
        return None
    chosen = dict(
        _choose(kind.backend, precision, num_experts, _rows(kind), model.dim, kind.hidden)
        for kind, num_experts in _stacked(model.moe.experts, model.moe.num_experts)
    )
    return (", ".join(chosen), "; ".join(dict.fromkeys(chosen.values()))) if chosen else None


def usual_kernel(precision: Precision) -> tuple[str, str]:
    """Which kernel `auto` takes there for experts whose widths suit any, and why."""
    return _choose("auto", precision, num_experts=1, rows=128, dim=64, hidden=64)


def _stacked(experts: ExpertsConfig | MoEExpertsConfig, num_experts: int) -> Iterator[tuple[DenseConfig, int]]:
    """The kinds that kernels compute, and how many experts are of each: of parts, and of mixtures inside, too."""
    match experts:
        case GLUExpertsConfig() | ClampedGLUExpertsConfig() | MLPExpertsConfig():
            yield experts, num_experts
        case ConcatExpertsConfig():
            for part in experts.parts:
                yield from _stacked(part.experts, part.num_experts)
        case MoEExpertsConfig():
            yield from _stacked(experts.moe.experts, experts.moe.num_experts)
        case _:
            pass


def _rows(kind: DenseConfig) -> int:
    """Of the up matrix."""
    return kind.hidden if isinstance(kind, MLPExpertsConfig) else kind.gating.width * kind.hidden


def _choose(
    backend: BackendName, precision: Precision, num_experts: int, rows: int, dim: int, hidden: int
) -> tuple[str, str]:
    """For shapes of experts over the memory of one number."""
    one = torch.zeros((), dtype=precision.autocast or torch.float32, device=precision.device)
    weights = ExpertWeights(one.expand(num_experts, rows, dim), one.expand(num_experts, dim, hidden))
    choice = choose_backend(backend, one.expand(1, dim), weights)
    return choice.name, choice.reason
