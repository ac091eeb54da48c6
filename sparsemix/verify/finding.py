"""What a check finds, and how far numbers may be from what they should be."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

SAFETY = 16
"""Rounding errors of a sum of n terms grow as sqrt(n). The factor leaves room for several sums in a row; no sound layer
has been seen to use half of it."""
NEGLIGIBLE = 0.1
"""A tensor whose numbers are all below this share of the largest number compared with it is measured by that share: it
may be what is left of terms that nearly cancel, as the gradient of a router that is sure. If it is wrong altogether,
that is still found unless it is below a few millionths of the largest."""


class Finding(NamedTuple):
    """One row of the table."""

    check: str
    """What is proven, in a few words."""
    where: str
    """Of which part: `block 3`, `model`, `checkpoint`."""
    detail: str
    """What was compared with what, or what was found; or why the check does not apply."""
    passed: bool | None
    """None: it does not apply."""
    error: float | None = None
    """The largest difference, relative to the largest number of the tensor it is in."""
    tolerance: float | None = None
    """The most it may be."""
    worst: str = ""
    """Where that difference is."""


class Comparison:
    """Collects differences of tensors from what they should be; keeps the worst.

    The tolerance is 16 eps sqrt(n): eps of the dtype under test, n the terms of the longest sum behind a number.
    """

    def __init__(self, terms: int, dtype: torch.dtype) -> None:
        self.tolerance = SAFETY * torch.finfo(dtype).eps * math.sqrt(max(terms, 1))
        self.error, self.worst, self.compared = 0.0, "nothing", 0

    def add(self, situation: str, actual: Iterable[tuple[str, Tensor]], expected: Iterable[Tensor]) -> None:
        """Compare tensors that are of one kind, such as all gradients of one pass."""
        both = zip(actual, expected, strict=True)
        pairs = [(name, one.detach().double(), wanted.detach().double()) for (name, one), wanted in both]
        largest = max((_size(e) for _, _, e in pairs), default=0.0)
        for name, one, wanted in pairs:
            scale = max(_size(wanted), NEGLIGIBLE * largest) or 1.0
            self.note(_size(one - wanted) / scale if one.shape == wanted.shape else math.inf, f"{name}, {situation}")

    def note(self, error: float, what: str) -> None:
        """An error found otherwise, in the same unit; NaN counts as infinite."""
        self.compared += 1
        error = math.inf if math.isnan(error) else error
        if error > self.error or self.compared == 1:
            self.error, self.worst = error, what

    def finding(self, check: str, where: str, against: str) -> Finding:
        """The row of all that was compared; nothing compared proves nothing."""
        if not self.compared:
            return Finding(check, where, f"nothing to compare with {against}", None)
        passed = self.error <= self.tolerance
        return Finding(check, where, against, passed, self.error, self.tolerance, self.worst)


def does_not_apply(check: str, where: str, reason: str) -> Finding:
    """A row that says why there is nothing to prove."""
    return Finding(check, where, reason, None)


def _size(tensor: Tensor) -> float:
    return tensor.abs().max().item() if tensor.numel() else 0.0
