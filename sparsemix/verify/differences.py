"""Gradients against central differences: true of any router and any expert, whoever wrote their formulas."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sparsemix.verify.finding import Comparison, Finding
from sparsemix.verify.situations import SEED, Subject, fixed_noise, gradients, twin, upstream, wide

STEP = 1e-6
"""Relative to the size of a parameter; in float64, the difference then has about nine digits."""
TOLERANCE = 1e-6
TRIES = 3
"""Directions: a step may cross a kink, of a ReLU or of a choice of experts, but hardly three times."""
NUM_TOKENS = 16


def check_derivatives(subject: Subject) -> Finding:
    """In training, under fixed noise: how the output moves with x and with each parameter."""
    moe = twin(subject.moe).train()
    tokens = wide(subject.tokens(NUM_TOKENS))

    def output() -> Tensor:
        with fixed_noise():
            y, _ = moe(tokens.x, info=tokens.info, previous=tokens.previous)
        return (y * upstream(y)).sum()

    inputs = {"x": tokens.x, **dict(moe.named_parameters())}
    found = gradients(output(), list(inputs.values()))
    comparison = Comparison(1, torch.float64)
    comparison.tolerance = TOLERANCE
    for (name, tensor), gradient in zip(inputs.items(), found):
        comparison.note(error_of(output, tensor, gradient), f"gradient of {name}")
    return comparison.finding("derivatives", subject.where, "central differences in float64, in training")


@torch.no_grad()
def error_of(function: Callable[[], Tensor], tensor: Tensor, gradient: Tensor) -> float:
    """How far the gradient is off along a random direction, relative to the change; the least of a few tries."""
    generator = torch.Generator().manual_seed(SEED)
    size = tensor.square().mean().sqrt().item() if tensor.numel() else 0.0
    least = float("inf")
    for _ in range(TRIES):
        direction = torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor.device)
        direction *= size or 1.0
        actual = (gradient * direction).sum().item()
        expected = _change(function, tensor, direction)
        scale = max(abs(actual), abs(expected), 1e-3 * abs(function().item()), 1e-12)
        least = min(least, abs(actual - expected) / scale)
        if least <= TOLERANCE:
            break
    return least


def _change(function: Callable[[], Tensor], tensor: Tensor, direction: Tensor) -> float:
    """The function's derivative along a direction, from both sides."""
    before = tensor.clone()
    values = []
    for sign in (1, -1):
        tensor.copy_(before + sign * STEP * direction)
        values.append(function().item())
    tensor.copy_(before)
    return (values[0] - values[1]) / (2 * STEP)
