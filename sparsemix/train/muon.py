"""Muon: momentum whose every matrix is orthogonalised before it is applied, stacks of experts all at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""x -> a x + b x^3 + c x^5, applied to singular values: steep at 0, and it stays within about 0.7..1.2 near 1.
Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"."""
NORM_EPS = 1e-7
ELONGATED = 1.5
"""Sides in at least this ratio: iterating on the square of the short side is then the cheaper way."""


class Muon(torch.optim.Optimizer):
    """W <- (1 - lr decay) W - lr scale orthogonalize(nesterov(gradient)) for matrices (out, in) and stacks of them.

    `torch.optim.Muon` takes 2-D parameters only, and computes in bfloat16, which most CPUs emulate. This one takes
    (E, out, in) too, each expert a matrix of its own, batches matrices of equal shape, and computes in the dtype asked
    for. A matrix whose gradient is exactly 0, an expert without tokens, keeps its weights and its momentum: its
    stale momentum would otherwise be blown up to a full step.

    Args:
        params: parameters with 2 or 3 axes, or groups of them.
        lr: the root mean square of singular values of an update, times the scale below.
        momentum: beta of the running mean of gradients.
        weight_decay: decoupled; the share of a weight removed a step is lr times this.
        scale: `shape` is sqrt(max(1, out / in)); `rms` is 0.2 sqrt(max(out, in)), which gives an update the root mean
            square entry that AdamW's typically has, so that AdamW's learning rates and decays carry over.
        iterations: Newton-Schulz steps.
        dtype: of the orthogonalisation, which takes nearly all the time; None: that of the parameter.

    Source: Jordan et al. 2024 (`shape`); Moonlight, 2502.16982 (`rms`).
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        scale: Literal["shape", "rms"] = "shape",
        iterations: int = 5,
        dtype: torch.dtype | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "scale": scale,
            "iterations": iterations,
            "dtype": dtype,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Apply the gradients; parameters without one stay as they are."""
        for group in self.param_groups:
            for parameters in _batches(group["params"]):
                self._step_batch(parameters, group)

    def _step_batch(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        beta, lr = group["momentum"], group["lr"]
        updates, moving = [], []
        for parameter in parameters:
            gradient = _stack(parameter.grad)
            state = self.state[parameter]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(parameter)
            momentum = _stack(state["momentum"])
            moves = (torch.linalg.vector_norm(gradient, dim=(1, 2), keepdim=True) > 0).to(gradient.dtype)
            momentum.lerp_(gradient, (1 - beta) * moves)
            updates.append(gradient.lerp(momentum, beta))
            moving.append(moves)
        joined = torch.cat(updates)
        update = orthogonalize(joined.to(group["dtype"] or joined.dtype), group["iterations"]).to(joined.dtype)
        update *= torch.cat(moving) * (-lr * _scale(group["scale"], *update.shape[1:]))
        for parameter, part in zip(parameters, update.split([len(one) for one in moving])):
            if group["weight_decay"]:
                parameter.mul_(1 - lr * group["weight_decay"])
            _stack(parameter).add_(part)


def orthogonalize(x: Tensor, iterations: int = 5) -> Tensor:
    """About U V^T, where x = U S V^T, for each matrix of a batch (B, out, in); 0 for a matrix of zeros.

    Every singular value is sent through the same odd polynomial, `iterations` times; after 5 those above a
    thousandth of the Frobenius norm are within about 0.5..1.2. Computed in the dtype of x, that of the result.
    """
    x = x / (torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True) + NORM_EPS)
    short, long = sorted(x.shape[1:])
    # Squaring the matrix squares its condition number, for which bfloat16 has not the digits.
    if long >= ELONGATED * short and x.dtype != torch.bfloat16:
        return _iterate_on_square(x, iterations)
    return _iterate(x, iterations)


def _iterate(x: Tensor, iterations: int) -> Tensor:
    """x <- a x + (b A + c A^2) x with A = x x^T, from the side where A is the smaller. Overwrites x."""
    a, b, c = NEWTON_SCHULZ
    wide, free = x.shape[1] <= x.shape[2], torch.empty_like(x)
    for _ in range(iterations):
        square = x @ x.mT if wide else x.mT @ x
        polynomial = torch.baddbmm(square, square, square, beta=b, alpha=c)
        factors = (polynomial, x) if wide else (x, polynomial)
        x, free = torch.baddbmm(x, *factors, beta=a, out=free), x
    return x


def _iterate_on_square(x: Tensor, iterations: int) -> Tensor:
    """The same: P = a + b A + c A^2 turns x into P x and A into P A P, so that only A need be iterated."""
    a, b, c = NEWTON_SCHULZ
    wide, product = x.shape[1] <= x.shape[2], None
    square = x @ x.mT if wide else x.mT @ x
    for index in range(iterations):
        polynomial = torch.baddbmm(square, square, square, beta=b, alpha=c)
        polynomial.diagonal(dim1=1, dim2=2).add_(a)
        product = polynomial if product is None else polynomial @ product
        if index < iterations - 1:
            square = polynomial @ (square @ polynomial)
    if product is None:
        return x
    return product @ x if wide else x @ product


def _scale(rule: Literal["shape", "rms"], rows: int, columns: int) -> float:
    if rule == "shape":
        return max(1.0, rows / columns) ** 0.5
    return 0.2 * max(rows, columns) ** 0.5


def _batches(parameters: Iterable[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Single matrices by shape; a stack of experts is large enough to be a batch of its own."""
    single = defaultdict(list)
    for parameter in parameters:
        if parameter.grad is None:
            continue
        if parameter.ndim == 3:
            yield [parameter]
        else:
            single[parameter.shape].append(parameter)
    yield from single.values()


def _stack(matrices: Tensor | None) -> Tensor:
    """A view with three axes."""
    assert matrices is not None
    return matrices if matrices.ndim == 3 else matrices[None]
