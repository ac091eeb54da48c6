"""What the tests of the compiled back end share: sizes where tiles, panels, slabs and batches end; weights; a run."""

from __future__ import annotations

import torch

from sparsemix import Dispatch, Routing, sort_by_expert
from sparsemix.kernels import ClampedGated, ExpertWeights, Gated, Plain
from sparsemix.kernels.weights import Needs

BIASED = ("biased", "clamped")
# tokens, dim, hidden, experts, k
SIZES = [
    (1, 16, 16, 2, 1),
    (5, 7, 3, 4, 2),
    (40, 33, 17, 3, 2),
    (300, 64, 48, 4, 2),
    (100, 16, 16, 64, 2),  # few rows an expert, and none
    (700, 48, 40, 1, 1),  # several blocks
    (2600, 40, 24, 2, 1),  # several batches
    (150, 600, 530, 2, 2),  # several slabs of the depth, in both projections
    (40, 600, 530, 3, 1),  # the same with few rows
]


def dispatch_of_size(tokens: int, experts: int, k: int, dead: bool) -> Dispatch:
    generator = torch.Generator().manual_seed(tokens)
    routing = Routing(
        token_N=torch.arange(tokens).repeat_interleave(k),
        expert_N=torch.randint(experts, (tokens * k,), generator=generator),
        weight_N=torch.rand(tokens * k, generator=generator),
        live_N=torch.rand(tokens * k, generator=generator) > 0.3 if dead else None,
        edges_per_token=None if tokens == 5 else k,
    )
    return sort_by_expert(routing, experts)


def activation_of(form, name="silu"):
    match form:
        case "gated":
            return Gated(name)
        case "interleaved":
            return Gated(name, interleaved=True)
        case "clamped":
            return ClampedGated(limit=2.0, alpha=1.3)
        case _:
            return Plain(name)


def tensors(size, form, transposed=False):
    tokens, dim, hidden, experts, _ = size
    generator = torch.Generator().manual_seed(dim)
    wide = activation_of(form).width * hidden
    up, down = (
        torch.randn(experts, wide, dim, generator=generator),
        torch.randn(experts, dim, hidden, generator=generator),
    )
    up, down = up / dim**0.5, down / hidden**0.5
    if transposed:
        up, down = up.mT.contiguous().mT, down.mT.contiguous().mT
    biases = (torch.randn(experts, wide, generator=generator), torch.randn(experts, dim, generator=generator))
    x_TD, dy_TD = torch.randn(2, tokens, dim, generator=generator)
    return x_TD, dy_TD, ExpertWeights(up, down, *(biases if form in BIASED else ()))


def run(ops, size, form, name="silu", transposed=False, dead=False, dtype=torch.float32):
    """y and every gradient."""
    dispatch = dispatch_of_size(size[0], *size[3:], dead)
    x_TD, dy_TD, weights = tensors(size, form, transposed)
    dispatch = dispatch._replace(weight_N=dispatch.weight_N.to(dtype))
    x_TD, dy_TD, weights = (
        x_TD.to(dtype),
        dy_TD.to(dtype),
        ExpertWeights(*(w if w is None else w.to(dtype) for w in weights)),
    )
    act, needs = activation_of(form, name), Needs(*[True] * 4, *[form in BIASED] * 2)
    y_TD, saved = ops.forward(x_TD, dispatch, weights, act)
    return y_TD, *ops.backward(dy_TD, x_TD, saved, dispatch, weights, act, needs)
