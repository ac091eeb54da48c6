"""What the tests of the Triton back end share: routings with dead edges, weights, the loop, and the comparison."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import references
import torch
from cases import numbers
from torch import Tensor

from sparsemix.kernels import ClampedGated, Gated, Plain
from sparsemix.kernels.triton.backend import backward, forward
from sparsemix.kernels.weights import ExpertWeights, Gradients, Needs
from sparsemix.routing import Dispatch, Routing, sort_by_expert

FORMS = ["gated", "plain", "biased", "gated_biased", "gated_interleaved", "gated_clamped_biased"]
CLAMPED = ClampedGated(limit=0.8, alpha=1.3, offset=0.5)  # interleaved too
ALL = Needs(True, True, True, True, True, True)
TOLERANCE = {torch.float32: 2e-5, torch.float16: 1e-2, torch.bfloat16: 6e-2}


def random_routing(
    num_tokens: int, num_experts: int, k: int, live: float = 1.0, ragged: bool = False, device: str = "cpu"
) -> Routing:
    """k distinct experts a token; each edge live with that probability."""
    generator = torch.Generator().manual_seed(1)
    scores_TE = torch.rand(num_tokens, num_experts, generator=generator)
    num_edges = num_tokens * k
    live_N = torch.rand(num_edges, generator=generator) < live
    return Routing(
        token_N=torch.arange(num_tokens).repeat_interleave(k).to(device),
        expert_N=scores_TE.topk(k).indices.flatten().to(device),
        weight_N=torch.rand(num_edges, generator=generator).to(device),
        live_N=None if live == 1.0 else live_N.to(device),
        edges_per_token=None if ragged else k,
    )


def random_weights(
    form: str, num_experts: int, dim: int, hidden: int, dtype: torch.dtype, transposed: bool = False, out: int = 0
) -> ExpertWeights:
    """Scaled so that all through the expert numbers stay near 1; y is as wide as x, or `out`."""
    out = out or dim
    wide = 2 * hidden if form.startswith("gated") else hidden
    up_EGD = (numbers(0, num_experts, wide, dim) / dim**0.5).to(dtype)
    down_EDF = (numbers(1, num_experts, out, hidden) / hidden**0.5).to(dtype)
    if transposed:
        up_EGD = up_EGD.transpose(1, 2).contiguous().transpose(1, 2)
        down_EDF = down_EDF.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    biases = [numbers(2, num_experts, wide).to(dtype), numbers(3, num_experts, out).to(dtype)]
    return ExpertWeights(up_EGD, down_EDF, *(biases if form.endswith("biased") else []))


def activation_of(form: str, name: str):
    if "clamped" in form:
        return CLAMPED
    return Gated(name, interleaved="interleaved" in form) if form.startswith("gated") else Plain(name)


def loop(form: str, name: str, x_TD: Tensor, dispatch: Dispatch, weight_N: Tensor, weights: list[Tensor]) -> Tensor:
    """The definition, row by row."""
    rows = [x_D.new_zeros(weights[1].shape[1]) for x_D in x_TD]
    for e, (start, end) in enumerate(pairwise(dispatch.bounds.tolist())):
        up_GD, down_DF, *biases = (tensor[e] for tensor in weights)
        for n in range(start, end):
            t = int(dispatch.token_N[n])
            rows[t] = rows[t] + weight_N[n] * expert(form, name, x_TD[t], up_GD, down_DF, *biases)
    return torch.stack(rows) if rows else x_TD.new_zeros(0, weights[1].shape[1])


def expert(form, name, x_D, up_GD, down_DF, up_bias_G=0.0, down_bias_D=0.0) -> Tensor:
    if not form.startswith("gated"):
        return references.mlp(x_D, up_GD, down_DF, name, up_bias_G, down_bias_D)
    h_G = up_GD @ x_D + up_bias_G
    gate_F, up_F = (h_G[::2], h_G[1::2]) if activation_of(form, name).interleaved else h_G.chunk(2)
    if "clamped" in form:
        return down_DF @ references.clamped(gate_F, up_F, CLAMPED.limit, CLAMPED.alpha, CLAMPED.offset) + down_bias_D
    return down_DF @ (references.activation(name, gate_F) * up_F) + down_bias_D


class Expected(NamedTuple):
    y_TD: Tensor
    gradients: Gradients


def expected_of(form, name, x_TD, dispatch, weights, dy_TD) -> Expected:
    """By autograd through the loop, in float64."""
    x_TD, weight_N, *tensors = (
        tensor.double().requires_grad_() for tensor in (x_TD, dispatch.weight_N, *weights) if tensor is not None
    )
    y_TD = loop(form, name, x_TD, dispatch, weight_N, tensors)
    inputs = [x_TD, weight_N, *tensors]
    found = [None] * len(inputs)
    if y_TD.requires_grad:
        found = torch.autograd.grad(y_TD, inputs, dy_TD.double(), allow_unused=True)
    grads = [torch.zeros_like(tensor) if grad is None else grad for tensor, grad in zip(inputs, found)]
    return Expected(y_TD.detach(), Gradients(*grads, *[None] * (6 - len(grads))))


def poison(x_TD: Tensor, dispatch: Dispatch) -> tuple[Tensor, Dispatch]:
    """NaN in all that no live row reads: tokens without live edges, and the weights of dead rows."""
    num_live = int(dispatch.bounds[-1])
    read = torch.zeros(len(x_TD), dtype=torch.bool, device=x_TD.device)
    read[dispatch.token_N[:num_live]] = True
    weight_N = dispatch.weight_N.clone()
    weight_N[num_live:] = torch.nan
    return x_TD.masked_fill(~read[:, None], torch.nan), dispatch._replace(weight_N=weight_N)


def check(form, name, x_TD, routing, num_experts, weights, needs=ALL) -> None:
    """Compare the value and every gradient with the loop's."""
    dispatch, activation = sort_by_expert(routing, num_experts), activation_of(form, name)
    dy_TD = numbers(9, len(x_TD), weights.down_EDF.shape[1]).to(x_TD)
    expected = expected_of(form, name, x_TD, dispatch, weights, dy_TD)
    x_TD, dispatch = poison(x_TD, dispatch)
    dy_TD = dy_TD.masked_fill(x_TD.isnan().any(1, keepdim=True), torch.nan)

    y_TD, saved = forward(x_TD, dispatch, weights, activation)
    gradients = backward(dy_TD, x_TD, saved, dispatch, weights, activation, needs)

    close(y_TD, expected.y_TD, x_TD.dtype, f"{form} {name}: value")
    assert saved[0][int(dispatch.bounds[-1]) :].isnan().all(), "a dead row of h was written"
    for what, actual, wanted in zip(Gradients._fields, gradients, expected.gradients):
        if wanted is None:
            assert actual is None
        else:
            kind = dispatch.weight_N.dtype if what == "weight_N" else x_TD.dtype
            close(actual, wanted, x_TD.dtype, f"{form} {name}: gradient of {what}", kind)


def close(actual: Tensor, expected: Tensor, dtype: torch.dtype, what: str, kind: torch.dtype | None = None) -> None:
    """Within a tolerance that grows with the size of what was summed."""
    assert actual.dtype == (kind or dtype), what
    scale = max(1.0, float(expected.abs().max())) if expected.numel() else 1.0
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(
        actual.double(), expected, atol=tolerance * scale, rtol=tolerance, msg=lambda text: f"{what}: {text}"
    )
