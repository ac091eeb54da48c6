"""One token through its experts, as in generation: no sort and no gather, each weight read once."""

from __future__ import annotations

from torch import Tensor

from sparsemix.kernels import cpp
from sparsemix.kernels.activations import Activation, Custom
from sparsemix.kernels.backend import BackendName
from sparsemix.kernels.gemm import product
from sparsemix.kernels.modes import nobody_differentiates
from sparsemix.kernels.weights import ExpertWeights
from sparsemix.routing import Routing


def one_token(
    x_TD: Tensor, routing: Routing, weights: ExpertWeights, activation: Activation, backend: BackendName
) -> Tensor | None:
    """y = sum over the live edges n of w_n (W_down act(W_up x + b_up) + b_down); (1, O), without autograd.

    None where it cannot be had: more tokens than one, a gradient wanted, or a back end asked for that has no such way.
    """
    if len(x_TD) != 1 or backend not in ("auto", "cpp", "cpu") or not nobody_differentiates(x_TD):
        return None
    compiled = backend != "cpu" and not isinstance(activation, Custom)
    if compiled and cpp.takes_one_token(x_TD, weights):
        live = slice(None) if routing.live_N is None else routing.live_N
        return cpp.one_token(x_TD, routing.expert_N[live], routing.weight_N[live], weights, activation)
    return _expert_by_expert(x_TD, routing, weights, activation)


def _expert_by_expert(x_1D: Tensor, routing: Routing, weights: ExpertWeights, activation: Activation) -> Tensor:
    y_1O = x_1D.new_zeros(1, weights.down_EDF.shape[1])
    live = [True] * len(routing.expert_N) if routing.live_N is None else routing.live_N.tolist()
    for expert, weight, is_live in zip(routing.expert_N.tolist(), routing.weight_N.tolist(), live):
        if not is_live:
            continue
        h_1G = product(x_1D, weights.up_EGD[expert].T)
        if weights.up_bias_EG is not None:
            h_1G += weights.up_bias_EG[expert]
        y_1O.add_(product(activation.forward(h_1G), weights.down_EDF[expert].T), alpha=weight)
        if weights.down_bias_ED is not None:
            y_1O.add_(weights.down_bias_ED[expert], alpha=weight)
    return y_1O
