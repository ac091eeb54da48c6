"""Curves for TensorBoard, where it is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class TensorBoard:
    """Writes scalars; does nothing where `tensorboard` is not installed, since metrics.jsonl has them all."""

    def __init__(self, folder: Path, step: int) -> None:
        self._writer: Any = None
        if importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder), purge_step=step + 1)  # later points are of steps to be redone

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """The numbers among these values, those of nested mappings under `outer/inner`."""
        if self._writer is None:
            return
        for name, value in values.items():
            if isinstance(value, Mapping):
                self.write(step, {f"{name}/{inner}": number for inner, number in value.items()})
            elif isinstance(value, (int, float)):
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """No more will come."""
        if self._writer is not None:
            self._writer.close()
