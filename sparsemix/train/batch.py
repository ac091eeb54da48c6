"""Batches on their way into the model: cut into micro-batches, and as tensors on the device."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sparsemix.data import Batch


class TensorBatch(NamedTuple):
    """A `Batch` as tensors; the fields are the same."""

    tokens_BS: Tensor
    targets_BS: Tensor
    weight_BS: Tensor
    document_BS: Tensor | None
    position_BS: Tensor | None


def to_tensors(batch: Batch, device: torch.device) -> TensorBatch:
    """The batch on a device."""
    return TensorBatch(*(None if part is None else torch.from_numpy(part).to(device) for part in batch))  # type: ignore[arg-type]


def split_batch(batch: Batch, parts: int) -> list[Batch]:
    """As many micro-batches of consecutive rows, as equal as can be."""

    def rows(field: np.ndarray | None) -> list[np.ndarray | None]:
        return [None] * parts if field is None else list(np.array_split(field, parts))

    return [Batch(*fields) for fields in zip(*(rows(field) for field in batch))]  # type: ignore[arg-type]
