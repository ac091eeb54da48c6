"""Two-layer experts whose matrices are stacked: by the kernels, in the dtype that autocast wants."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from sparsemix.experts.base import autocast, check_vectors
from sparsemix.kernels import Activation, BackendName, ExpertWeights, expert_mlp
from sparsemix.routing import Dispatch


class KernelConfig(Protocol):
    """What the configs of such experts say about how they are computed."""

    @property
    def backend(self) -> BackendName: ...

    @property
    def recompute(self) -> bool: ...


def stacked_mlp(
    x_TD: Tensor, dispatch: Dispatch, weights: ExpertWeights, activation: Activation, config: KernelConfig
) -> Tensor:
    """y_t = sum over the live rows n of token t of w_n (W_down act(W_up x_t + b_up) + b_down), in autocast's dtype.

    Raises:
        ValueError: items with more axes than one.
    """
    check_vectors(x_TD)
    x_TD = autocast(x_TD.device, x_TD)
    weights = ExpertWeights._make(autocast(x_TD.device, weight) for weight in weights)
    return expert_mlp(x_TD, dispatch, weights, activation, config.backend, config.recompute)
