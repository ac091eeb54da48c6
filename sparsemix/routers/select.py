"""Pure functions from scores to chosen experts, and the order in which an expert serves its edges."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def capacity(num_tokens: int, k: int, num_experts: int, factor: float) -> int:
    """max(1, ceil(factor T k / E)) edges an expert: k is included, rounded up, never below one token.

    Source: Megatron's rule (V-MoE rounds further up, to a multiple of 4); others leave k out, which agrees for k = 1.
    """
    share = round(factor * num_tokens * k / num_experts, 6)  # 1.1 * 10 is a hair above 11 in floating point
    return max(1, math.ceil(share))


def position_order(num_tokens: int, k: int, device: torch.device) -> Tensor:
    """Edges (token-major, K a token) in serving order: all first choices by position, then all second ones, ..."""
    return torch.arange(num_tokens * k, device=device).view(num_tokens, k).T.reshape(-1)


def probability_order(weight_N: Tensor) -> Tensor:
    """Edges in serving order: the largest gate first, ties by position."""
    return weight_N.detach().argsort(descending=True, stable=True)


def selection_probability(clean_TE: Tensor, noisy_TE: Tensor, scale_TE: Tensor, k: int) -> Tensor:
    """P(t, i) = Phi((clean_i - kth largest of the others' noisy logits) / scale_i): chance that i is in the top k.

    The noise of i alone is drawn again, that of the others stays. Gradient flows through the threshold too.
    Source: Shazeer 2017 (1701.06538), equation 8 and 9. Needs k < E.
    """
    top_TK, _ = noisy_TE.topk(k + 1, dim=-1)
    selected_TE = noisy_TE > top_TK[:, k:]
    # Without i, the k-th largest is the (k + 1)-th of all where i is among the top k, and otherwise the k-th.
    threshold_TE = torch.where(selected_TE, top_TK[:, k:], top_TK[:, k - 1 : k])
    return torch.special.ndtr((clean_TE - threshold_TE) / scale_TE)
