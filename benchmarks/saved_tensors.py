"""What autograd is given to keep for backward, each piece of memory once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def saved_storages(call: Callable[[], T], without: Sequence[Tensor]) -> tuple[T, list[Tensor]]:
    """What the call returns, and one tensor for each storage that its graph keeps.

    Args:
        call: makes a graph.
        without: tensors whose memory is not counted, as it is there anyway.

    Returns:
        The result; the tensors.
    """
    known = {address(tensor) for tensor in without}
    found: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        if address(tensor) not in known:
            found.setdefault(address(tensor), tensor.detach())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = call()
    return result, list(found.values())


def address(tensor: Tensor) -> int:
    """Of the memory that it is a view of."""
    return tensor.untyped_storage().data_ptr()


def saved_bytes(tensors: Iterable[Tensor]) -> int:
    """Of the whole memory that they are views of: a slice keeps all of it alive."""
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)
