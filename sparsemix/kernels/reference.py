"""The definition of the expert MLP: a loop over experts under autograd. Slow, and what all else is tested against."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from sparsemix.kernels.activations import Activation
from sparsemix.routing import Dispatch


def expert_mlp(
    x_TD: Tensor,
    dispatch: Dispatch,
    up_EGD: Tensor,
    down_EDF: Tensor,
    activation: Activation,
    up_bias_EG: Tensor | None = None,
    down_bias_ED: Tensor | None = None,
) -> Tensor:
    """y_n = w_n (W_down act(W_up x_t + b_up) + b_down), each expert on its own rows; (N, D)."""
    edges = dispatch.bounds.tolist()
    outputs = []
    for expert, (start, end) in enumerate(pairwise(edges)):
        h = x_TD[dispatch.token_N[start:end]] @ up_EGD[expert].T
        if up_bias_EG is not None:
            h = h + up_bias_EG[expert]
        y = activation.forward(h) @ down_EDF[expert].T
        if down_bias_ED is not None:
            y = y + down_bias_ED[expert]
        outputs.append(y * dispatch.weight_N[start:end, None].to(y.dtype))
    return torch.cat(outputs)
