"""Two-layer experts whose matrices are stacked: by the kernels, or expert by expert where they change the width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from sparsemix.checks import check
from sparsemix.experts.base import autocast, combine_live, live_rows
from sparsemix.kernels import Activation, BackendName, ExpertWeights, expert_mlp, linear, one_token
from sparsemix.routing import Dispatch, Routing


class KernelConfig(Protocol):
    """What the configs of such experts say about how they are computed."""

    @property
    def backend(self) -> BackendName: ...

    @property
    def recompute(self) -> bool: ...


def stacked_mlp(
    x_TD: Tensor, dispatch: Dispatch, weights: ExpertWeights, activation: Activation, config: KernelConfig
) -> Tensor:
    """y_t = sum over the live rows n of token t of w_n (W_down act(W_up x_t + b_up) + b_down), in autocast's dtype."""
    x_TD = autocast(x_TD.device, x_TD)
    weights = ExpertWeights._make(autocast(x_TD.device, weight) for weight in weights)
    if _keeps_width(x_TD, weights):
        return expert_mlp(x_TD, dispatch, weights, activation, config.backend, config.recompute)
    check(
        config.backend in ("auto", "reference") and not config.recompute,
        "backend",
        "experts that change the width are a loop under autograd",
        f"backend={config.backend}, recompute={config.recompute}",
        "use backend='auto', recompute=False",
    )
    return _expert_by_expert(x_TD, dispatch, weights, activation)


def stacked_one_token(
    x_1D: Tensor, routing: Routing, weights: ExpertWeights, activation: Activation, config: KernelConfig
) -> Tensor | None:
    """The same for a lone token, straight from its routing, where nobody wants a gradient; else None."""
    if not _keeps_width(x_1D, weights):
        return None
    return one_token(x_1D, routing, weights, activation, config.backend)


def _keeps_width(x_TD: Tensor, weights: ExpertWeights) -> bool:
    """Whether y is as wide as x, which the kernels take for granted."""
    return weights.down_EDF.shape[1] == x_TD.shape[1]


def _expert_by_expert(x_TD: Tensor, dispatch: Dispatch, weights: ExpertWeights, activation: Activation) -> Tensor:
    bounds = dispatch.bounds.tolist()
    num_experts = len(bounds) - 1
    parameters = zip(*(_each(stack, num_experts) for stack in weights))
    outputs = [
        linear(activation.forward(linear(x, up, up_bias)), down, down_bias)
        for x, (up, down, up_bias, down_bias) in zip(live_rows(x_TD, dispatch, bounds), parameters)
    ]
    y = torch.cat(outputs)
    return combine_live(y * dispatch.weight_N[: len(y), None].to(y.dtype), dispatch, len(x_TD))


def _each(stack: Tensor | None, num_experts: int) -> Sequence[Tensor | None]:
    """By `unbind`: indexing would write a gradient of the whole stack for each expert."""
    return num_experts * [None] if stack is None else stack.unbind()
