"""What a run runs on: written down when it starts, compared when it goes on."""

from __future__ import annotations

import logging
import platform
from datetime import UTC, datetime
from typing import Any

import torch

import sparsemix
from sparsemix.experts import GLUExperts, MLPExperts
from sparsemix.kernels import choose_backend
from sparsemix.models import Decoder
from sparsemix.train.config import TrainConfig
from sparsemix.train.trainer import Trainer

LOG = logging.getLogger(__name__)
MATTERS = ("sparsemix", "torch", "device", "autocast", "threads", "backend")
"""Which facts can change the last bits of a loss."""


def facts(trainer: Trainer, config: TrainConfig) -> dict[str, Any]:
    """Versions, device, precision, threads, chosen kernel, seed, time: JSON."""
    precision = trainer.precision
    return {
        "sparsemix": sparsemix.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": str(precision.device),
        "autocast": None if precision.autocast is None else str(precision.autocast).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "backend": _backend(trainer.model),
        "seed": config.seed,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def warn_of_changes(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Say so if a run goes on under other circumstances than it was started under."""
    changed = [f"{name} {before.get(name)} -> {now[name]}" for name in MATTERS if before.get(name) != now[name]]
    if changed:
        LOG.warning("resumed with %s: losses may differ in the last bits from an uninterrupted run", ", ".join(changed))


def _backend(model: Decoder) -> str | None:
    """Which kernel computes the experts, None where none of ours does."""
    for layer in model.config.moe_layers:
        experts = model.blocks[layer].ffn.experts  # type: ignore[union-attr]
        if isinstance(experts, (GLUExperts, MLPExperts)):
            name = experts.config.backend
            if name == "reference":
                return name
            up_EGD, down_EDF = (weight for weight in experts.parameters() if weight.ndim == 3)
            backend: Any = choose_backend(name, up_EGD.new_empty(0, up_EGD.shape[2]), up_EGD, down_EDF)
            return backend.__name__.rpartition(".")[2]
    return None
