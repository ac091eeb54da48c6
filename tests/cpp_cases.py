"""What the tests of the compiled back end share: sizes where tiles, panels, slabs and batches end; weights; a run."""

from __future__ import annotations

import pytest
import torch

from sparsemix import Dispatch, Routing, sort_by_expert
from sparsemix.kernels import ClampedGated, ExpertWeights, Gated, Plain
from sparsemix.kernels.cpp.library import cxx
from sparsemix.kernels.weights import Needs

needs_a_compiler = pytest.mark.skipif(cxx() is None, reason="there is no C++ compiler")
"""Not: where nothing could be built. A compiler that is there has to do."""
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
            return ClampedGated(limit=2.0, alpha=1.3, offset=0.5)
        case _:
            return Plain(name)


def tensors(size, form, transposed=False, out=None):
    """x, the gradient of y, and weights; y is as wide as x, or `out`."""
    tokens, dim, hidden, experts, _ = size
    out = out or dim
    generator = torch.Generator().manual_seed(dim)
    wide = activation_of(form).width * hidden
    up, down = (
        torch.randn(experts, wide, dim, generator=generator),
        torch.randn(experts, out, hidden, generator=generator),
    )
    up, down = up / dim**0.5, down / hidden**0.5
    if transposed:
        up, down = up.mT.contiguous().mT, down.mT.contiguous().mT
    biases = (torch.randn(experts, wide, generator=generator), torch.randn(experts, out, generator=generator))
    x_TD, dy_TO = torch.randn(tokens, dim, generator=generator), torch.randn(tokens, out, generator=generator)
    return x_TD, dy_TO, ExpertWeights(up, down, *(biases if form in BIASED else ()))


def run(ops, size, form, name="silu", transposed=False, dead=False, dtype=torch.float32, out=None):
    """y and every gradient."""
    dispatch = dispatch_of_size(size[0], *size[3:], dead)
    x_TD, dy_TO, weights = tensors(size, form, transposed, out)
    dispatch = dispatch._replace(weight_N=dispatch.weight_N.to(dtype))
    x_TD, dy_TO, weights = (
        x_TD.to(dtype),
        dy_TO.to(dtype),
        ExpertWeights(*(w if w is None else w.to(dtype) for w in weights)),
    )
    act, needs = activation_of(form, name), Needs(*[True] * 4, *[form in BIASED] * 2)
    y_TO, saved = ops.forward(x_TD, dispatch, weights, act)
    return y_TO, *ops.backward(dy_TO, x_TD, saved, dispatch, weights, act, needs)
