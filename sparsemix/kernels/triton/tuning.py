"""Tile sizes: measured on the GPU at first use and remembered on disk; small and fixed under the interpreter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
from triton import knobs

INTERPRETED = bool(knobs.runtime.interpret)
"""Whether kernels run in Triton's interpreter: decided by TRITON_INTERPRET when Triton is imported."""

PART = 16 if INTERPRETED else 64
"""The columns that one partial dot product covers: each tile of the kernel that makes them has one part or two."""


def _tiling(block_n: int, block_k: int, num_warps: int, num_stages: int, **block_m: int) -> triton.Config:
    sizes = {"BLOCK_N": block_n, "BLOCK_K": block_k, "GROUP": 8, **block_m}
    if INTERPRETED:  # two parts a tile, and often fewer tiles than a group, so that both are exercised
        sizes = {name: {"BLOCK_N": 32, "GROUP": 2}.get(name, 16) for name in sizes}
    return triton.Config(sizes, num_warps=num_warps, num_stages=num_stages)


SINGLE = [
    _tiling(64, 32, 4, 4),
    _tiling(64, 64, 4, 4),
    _tiling(128, 32, 4, 4),
    _tiling(128, 64, 4, 3),
    _tiling(128, 64, 8, 3),
    _tiling(128, 64, 8, 4),
    _tiling(256, 64, 8, 3),
]
"""For one accumulator; how many rows a tile has follows from the load (`block_rows`)."""

PAIR = [
    _tiling(64, 32, 4, 4),
    _tiling(64, 64, 4, 3),
    _tiling(64, 64, 8, 4),
    _tiling(128, 32, 8, 4),
    _tiling(128, 64, 8, 3),
]
"""For the two accumulators of a gated up projection."""

EPILOGUE = [
    _tiling(64, 32, 8, 4),
    _tiling(64, 64, 8, 3),
    _tiling(64, 64, 8, 4),
    _tiling(128, 64, 8, 3),
    _tiling(128, 32, 16, 4),
    _tiling(128, 64, 16, 3),
]
"""For one accumulator and an epilogue that needs several times its registers."""

SQUARE = [
    _tiling(64, 32, 4, 6, BLOCK_M=64),
    _tiling(64, 64, 4, 6, BLOCK_M=128),
    _tiling(128, 32, 4, 6, BLOCK_M=128),
    _tiling(128, 64, 4, 6, BLOCK_M=128),
    _tiling(128, 64, 8, 6, BLOCK_M=128),
    _tiling(256, 32, 8, 6, BLOCK_M=128),
    _tiling(256, 64, 8, 6, BLOCK_M=128),
]
"""For gradients of weights, whose depth is the rows of an expert. Their tokens are loaded before the rows, so that
Triton shares the stages out between two loads: 6 keep as many rows under way as 4 elsewhere."""


def tuned(tilings: list[triton.Config], key: list[str]) -> Callable[[Any], Any]:
    """Choose among tilings by measurement, anew for each value of the arguments in `key` and for each dtype."""
    return triton.autotune(
        configs=tilings[:1] if INTERPRETED else tilings,
        key=key,
        prune_configs_by={"early_config_prune": _worth_trying},
        cache_results=not INTERPRETED,
    )


def _worth_trying(tilings: list[triton.Config], arguments: dict[str, Any], **options: Any) -> list[triton.Config]:
    """Exact float32 keeps its operands in registers: deep tiles do not fit, and take minutes to compile."""
    operand = next(iter(arguments.values()))
    if operand.dtype != torch.float32 or options["PRECISION"] != "ieee":
        return tilings
    return [tiling for tiling in tilings if tiling.kwargs["BLOCK_K"] <= 32]


def block_rows(num_rows: int, num_experts: int) -> int:
    """Rows of a tile: the power of two at or below the mean load, within 16 (a tensor core's least) and 128.

    It depends on sizes alone, so that nothing waits for the GPU; in the keys of the tuning it stands for the load.
    """
    if INTERPRETED:
        return 16
    mean = max(1, num_rows // num_experts)
    return min(128, max(16, 1 << (mean.bit_length() - 1)))


def dot_precision() -> str:
    """How float32 is multiplied: exactly, unless PyTorch is told that less will do (16-bit types do not look)."""
    exact = torch.get_float32_matmul_precision() == "highest" or torch.version.hip is not None
    return "ieee" if exact else "tf32"
