"""One token through its experts, as in generation: no sort and no gather, each weight read once."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsemix.kernels.activations import Activation
from sparsemix.kernels.backend import BackendName
from sparsemix.kernels.gemm import product
from sparsemix.kernels.weights import ExpertWeights
from sparsemix.routing import Routing


def can_go_alone(x_TD: Tensor, backend: BackendName) -> bool:
    """Whether it is one token, on a CPU that no other back end is asked for, of which nobody wants a gradient."""
    if backend not in ("auto", "cpu"):
        return False
    alone = len(x_TD) == 1 and x_TD.device.type == "cpu" and not torch.is_grad_enabled()
    return alone and not torch.is_autocast_enabled("cpu") and not torch.compiler.is_compiling()


def one_token(x_1D: Tensor, routing: Routing, weights: ExpertWeights, activation: Activation) -> Tensor:
    """y = sum over the live edges n of w_n (W_down act(W_up x + b_up) + b_down); (1, D), without autograd."""
    y_1D = x_1D.new_zeros(1, weights.down_EDF.shape[1])
    live = [True] * len(routing.expert_N) if routing.live_N is None else routing.live_N.tolist()
    for expert, weight, is_live in zip(routing.expert_N.tolist(), routing.weight_N.tolist(), live):
        if not is_live:
            continue
        h_1G = product(x_1D, weights.up_EGD[expert].T)
        if weights.up_bias_EG is not None:
            h_1G += weights.up_bias_EG[expert]
        y_1D.add_(product(activation.forward(h_1G), weights.down_EDF[expert].T), alpha=weight)
        if weights.down_bias_ED is not None:
            y_1D.add_(weights.down_bias_ED[expert], alpha=weight)
    return y_1D
