"""What this machine does at its best, to be measured in the same turns as what is compared with it."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

GEMMS = ((2048, 2048, 2048), (3072, 3072, 3072), (8192, 512, 2048), (8192, 1024, 512))
"""Rows, inner size and columns of large products: square ones, and tall ones such as experts see."""
TOY_GEMMS = ((64, 64, 64), (128, 16, 32))
COPIED = 2**28
"""Bytes of the buffer that is copied, many times any cache."""


class Rate(NamedTuple):
    """Something that a machine can do fast."""

    work: float
    """FLOPs or bytes of one call."""
    call: Callable[[], object]


def gemm_rates(sizes: Sequence[tuple[int, int, int]]) -> dict[str, Rate]:
    """Products of float32 matrices, by `torch.mm` and by the library that this package may use instead."""
    return {name: rate for m, k, n in sizes for name, rate in _products(m, k, n).items()}


def _products(m: int, k: int, n: int) -> dict[str, Rate]:
    left, right, out = torch.randn(m, k), torch.randn(n, k), torch.empty(m, n)
    work, sizes = 2 * m * k * n, f"{m} x {k} x {n}"
    found = {f"product {sizes}": Rate(work, lambda: torch.mm(left, right.T, out=out))}
    if torch.backends.mkldnn.is_available():
        onednn = torch.ops.mkldnn._linear_pointwise
        found[f"oneDNN product {sizes}"] = Rate(work, lambda: onednn(left, right, None, "none", [], ""))
    return found


def copy_rates(num_bytes: int) -> dict[str, Rate]:
    """A copy from memory to memory; each byte counts twice, as it is read and written."""
    source, target = torch.randn(num_bytes // 4), torch.empty(num_bytes // 4)
    return {"copy": Rate(2 * num_bytes, lambda: target.copy_(source))}


def read_rates(memory: Tensor) -> dict[str, Rate]:
    """Ways to read all of a float32 tensor once and write next to nothing."""
    rows = memory.view(-1, memory.shape[-1])
    vector, out = torch.randn(rows.shape[1]), torch.empty(rows.shape[0])
    num_bytes = 4 * memory.numel()
    return {
        "sum": Rate(num_bytes, rows.sum),
        "max": Rate(num_bytes, rows.max),
        "matrix times vector": Rate(num_bytes, lambda: torch.mv(rows, vector, out=out)),
    }


def fastest(rates: Mapping[str, Rate], seconds: Mapping[str, Sequence[float]]) -> str:
    """The name of the one that did most a second, in the median of its turns."""
    return max(rates, key=lambda name: rates[name].work / statistics.median(seconds[name]))


def seconds_at_best(work: float, rates: Mapping[str, Rate], seconds: Mapping[str, Sequence[float]]) -> list[float]:
    """What `work` would have taken at the fastest rate, round by round."""
    best = fastest(rates, seconds)
    return [work * taken / rates[best].work for taken in seconds[best]]


def calls(rates: Mapping[str, Rate]) -> dict[str, Callable[[], object]]:
    """To be handed to `take_turns`."""
    return {name: rate.call for name, rate in rates.items()}
