"""What changes once an optimiser step without a gradient: selection biases, ReMoE's coefficient; and load violation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def violations(load_E: Sequence[float]) -> list[float]:
    """e_i = mean load - load_i: positive for an idle expert."""
    mean = sum(load_E) / len(load_E)
    return [mean - load for load in load_E]


def sign(x: float) -> int:
    return (x > 0) - (x < 0)


def bias_by_sign(bias_E: Tensor, load_E: Sequence[float], rate: float) -> Tensor:
    """b_i + u sign(e_i); for the multiplicative bias too, which starts at 1 and is used as s_i b_i."""
    return torch.stack([b + rate * sign(e) for b, e in zip(bias_E, violations(load_E))])


def bias_by_violation(bias_E: Tensor, load_E: Sequence[float], rate: float) -> Tensor:
    """b_i + u e_i, with e in the unit of `load_E` (tokens, or shares of tokens)."""
    return torch.stack([b + rate * e for b, e in zip(bias_E, violations(load_E))])


def max_violation(loads: Sequence[Sequence[float]]) -> float:
    """MaxVio of the loads summed over batches: max_i load_i / mean load - 1; one batch, or all of a run (global)."""
    total = [sum(column) for column in zip(*loads)]
    return max(total) / (sum(total) / len(total)) - 1


def zero_fraction(logits_TE: Tensor, valid: Sequence[bool]) -> float:
    """ReMoE's sparsity S: the share of gates relu(z) that are 0, over valid tokens."""
    gates = [z for row, is_valid in zip(logits_TE.tolist(), valid) if is_valid for z in row]
    return sum(z <= 0 for z in gates) / max(len(gates), 1)


def coefficient_step(coefficient: float, sparsity: float, k: int, num_experts: int, factor: float = 1.2) -> float:
    """ReMoE: times `factor` while the sparsity is below 1 - k / E, and otherwise divided by it."""
    return coefficient * factor if sparsity < 1 - k / num_experts else coefficient / factor
