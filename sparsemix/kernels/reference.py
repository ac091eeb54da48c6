"""The definition of the expert MLP: a loop over experts under autograd. Slow, and what all else is tested against."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from sparsemix.kernels.activations import Activation
from sparsemix.kernels.combine import combine
from sparsemix.kernels.weights import ExpertWeights
from sparsemix.routing import Dispatch


def expert_mlp(x_TD: Tensor, dispatch: Dispatch, weights: ExpertWeights, activation: Activation) -> Tensor:
    """y_t = sum of w_n (W_down act(W_up x_t + b_up) + b_down), each expert on its own rows; (T, O)."""
    edges = dispatch.bounds.tolist()
    outputs = []
    for expert, (start, end) in enumerate(pairwise(edges)):
        h = x_TD[dispatch.token_N[start:end]] @ weights.up_EGD[expert].T
        if weights.up_bias_EG is not None:
            h = h + weights.up_bias_EG[expert]
        y = activation.forward(h) @ weights.down_EDF[expert].T
        if weights.down_bias_ED is not None:
            y = y + weights.down_bias_ED[expert]
        outputs.append(y * dispatch.weight_N[start:end, None].to(y.dtype))
    num_dead = len(dispatch.token_N) - edges[-1]
    return combine(torch.cat([*outputs, x_TD.new_zeros(num_dead, weights.down_EDF.shape[1])]), dispatch, len(x_TD))
