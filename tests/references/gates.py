"""From logits to scores, distributions, weights and chances of being selected: one token at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor


def softmax(logits: Tensor) -> Tensor:
    powers = torch.exp(logits - logits.detach().max())
    return powers / powers.sum()


def sigmoid(logits: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-logits))


def softplus(raw: Tensor) -> Tensor:
    return torch.log(1 + torch.exp(raw))


def phi(z: Tensor) -> Tensor:
    """The standard normal distribution function."""
    return (1 + torch.erf(z / math.sqrt(2))) / 2


def scores(gate: str, logits_E: Tensor) -> Tensor:
    """What the best k are looked for in."""
    return {"softmax_topk": softmax, "topk_softmax": lambda z: z, "sigmoid": sigmoid}[gate](logits_E)


def distribution(gate: str, logits_E: Tensor) -> Tensor:
    """What balance losses read: one probability an expert."""
    if gate == "sigmoid":
        return sigmoid(logits_E) / sigmoid(logits_E).sum()
    return softmax(logits_E)


def weights(gate: str, normalize: bool, logits_E: Tensor, chosen: Sequence[int]) -> list[Tensor]:
    """The combine weights of one token's choices."""
    if gate == "topk_softmax":
        return list(softmax(torch.stack([logits_E[e] for e in chosen])))
    taken = [scores(gate, logits_E)[e] for e in chosen]
    return [score / sum(taken) for score in taken] if normalize else taken


def is_best_first(scores_E: Tensor, chosen: Sequence[int], tolerance: float = 1e-12) -> bool:
    """Whether `chosen` are distinct, in falling order of score, and none left out is better."""
    taken = [float(scores_E[e]) for e in chosen]
    left = [float(scores_E[e]) for e in range(len(scores_E)) if e not in chosen]
    ranked = [*taken, max(left)] if left else taken
    falling = all(first >= second - tolerance for first, second in pairwise(ranked))
    return falling and len(set(chosen)) == len(chosen)


def selection_probability(clean_E: Tensor, noisy_E: Tensor, scale_E: Tensor, k: int) -> Tensor:
    """Shazeer 2017, equation 8 and 9: the noise of expert i is drawn again, that of all others stays.

    All experts are always chosen where k is their number.
    """
    if k == len(clean_E):
        return torch.ones_like(clean_E)
    chances = []
    for i in range(len(clean_E)):
        others = [noisy_E[j] for j in range(len(clean_E)) if j != i]
        threshold = sorted(others, key=lambda value: value.item(), reverse=True)[k - 1]
        chances.append(phi((clean_E[i] - threshold) / scale_E[i]))
    return torch.stack(chances)
