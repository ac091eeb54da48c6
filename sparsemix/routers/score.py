"""Pure functions from x and weights to gate scores."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsemix.checks import check
from sparsemix.kernels import linear
from sparsemix.routers.base import wide_dtype

Gate = Literal["softmax_topk", "topk_softmax", "sigmoid"]


def linear_scores(x_TD: Tensor, weight_ED: Tensor, bias_E: Tensor | None = None) -> Tensor:
    """x W^T + b in at least float32, whatever the dtype of x and whatever autocast says; (T, E)."""
    dtype = wide_dtype(x_TD)
    with torch.autocast(x_TD.device.type, enabled=False):
        return linear(x_TD.to(dtype), weight_ED.to(dtype), None if bias_E is None else bias_E.to(dtype))


def gate_distribution(gate: Gate, logits_TE: Tensor) -> Tensor:
    """The distribution over all experts that balance losses read; rows sum to 1.

    Softmax of the logits, or for the sigmoid gate s_i / sum_j s_j (DeepSeek-V3, 2412.19437).
    """
    if gate == "sigmoid":
        return F.logsigmoid(logits_TE).softmax(-1)  # the same ratio, without 0 / 0 where every score underflows
    return logits_TE.softmax(-1)


def gate_scores(gate: Gate, logits_TE: Tensor) -> Tensor:
    """What the top k is taken of: probabilities, the logits themselves (topk_softmax), or a sigmoid each."""
    match gate:
        case "softmax_topk":
            return logits_TE.softmax(-1)
        case "topk_softmax":
            return logits_TE
        case "sigmoid":
            return torch.sigmoid(logits_TE)


def check_gradient(k: int, gate: Gate, normalize: bool) -> None:
    """Raise `ValueError` where the gate gives a token's only expert the weight 1."""
    seen = f"k=1 with gate={gate}, normalize={normalize}"
    remedy = "use gate='softmax_topk' or 'sigmoid' with normalize=False, or k >= 2"
    check_not_constant(k == 1 and (gate == "topk_softmax" or normalize), "k", seen, remedy)


def check_not_constant(constant: bool, name: str, seen: str, remedy: str) -> None:
    """Raise `ValueError` where all weights are 1 whatever the router says."""
    check(not constant, name, "one expert whose weight is normalised to 1 gives the router no gradient", seen, remedy)


def gate_weights(gate: Gate, scores_TK: Tensor, normalize: bool) -> Tensor:
    """The combine weights of the chosen experts from their scores."""
    if gate == "topk_softmax":
        return scores_TK.softmax(-1)
    return over_sum(scores_TK) if normalize else scores_TK


def over_sum(weight_TK: Tensor) -> Tensor:
    """Weights that sum to 1 for each token; 0 where all are 0."""
    return weight_TK / (weight_TK.sum(-1, keepdim=True) + 1e-20)


def softmax_among(logits_TK: Tensor, counted_TK: Tensor) -> Tensor:
    """Softmax over the entries that count, bool (T, K); 0 for the others, and for a token none of whose entries does.

    Rather than a softmax over all divided by its sum over these, which is 0 / 0 where all of these underflow.
    """
    left_out_TK = ~counted_TK & counted_TK.any(-1, keepdim=True)
    return logits_TK.masked_fill(left_out_TK, -torch.inf).softmax(-1).masked_fill(~counted_TK, 0)


def running_sum(x_TE: Tensor) -> Tensor:
    """Each entry plus all before it, by doubling: on a GPU, `cumsum` is refused where determinism is asked for."""
    reach = 1
    while reach < x_TE.shape[1]:
        x_TE = x_TE + F.pad(x_TE[:, :-reach], (reach, 0))
        reach *= 2
    return x_TE


def jitter(x_TD: Tensor, epsilon: float) -> Tensor:
    """x times uniform noise in [1 - epsilon, 1 + epsilon]: mean-preserving. Source: Switch's code (2101.03961).

    In at least float32: bfloat16 has no number between 1 and 1.0078, and its noise around 1 has a mean below 1.
    """
    x_TD = x_TD.to(wide_dtype(x_TD))
    return x_TD * torch.empty_like(x_TD).uniform_(1 - epsilon, 1 + epsilon)
