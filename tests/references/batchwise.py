"""Gates that hold the load by force: strictly balanced gating (2017, appendix F) and the running totals of 2013."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from references.edges import Edge, ranking
from references.gates import softmax
from references.token_choice import weighted


def batchwise_mask(probs_TE: Tensor, m: int) -> list[list[bool]]:
    """Each expert takes its m largest values over the batch; m = k T / E."""
    takers = [ranking(probs_TE[:, e])[:m] for e in range(probs_TE.shape[1])]
    return [[t in taken for taken in takers] for t in range(len(probs_TE))]


def threshold_mask(probs_TE: Tensor, threshold_E: Tensor) -> list[list[bool]]:
    """1 where the value is strictly above the expert's learned threshold."""
    return [[p > limit for p, limit in zip(row, threshold_E.tolist())] for row in probs_TE.tolist()]


def masked_softmax(probs_TE: Tensor, mask: list[list[bool]]) -> list[Edge]:
    """p M / sum p M; a token that no expert takes has no edge."""
    edges = []
    for t, p_E in enumerate(probs_TE):
        edges += weighted(t, p_E, [e for e in range(len(p_E)) if mask[t][e]], normalize=True)
    return edges


def batchwise(logits_TE: Tensor, m: int) -> list[Edge]:
    """The training gate: softmax, batchwise mask, renormalised for each token."""
    probs_TE = softmax_rows(logits_TE)
    return masked_softmax(probs_TE, batchwise_mask(probs_TE, m))


def thresholded(logits_TE: Tensor, threshold_E: Tensor) -> list[Edge]:
    """The gate at inference: softmax, threshold mask, renormalised for each token."""
    probs_TE = softmax_rows(logits_TE)
    return masked_softmax(probs_TE, threshold_mask(probs_TE, threshold_E))


def threshold_loss(probs_TE: Tensor, threshold_E: Tensor, m: int) -> Tensor:
    """sum_j sum_i (M_threshold - M_batch)_ji (p_ji - T_i): masks are constants, gradient flows to p and T.

    A caller who trains the thresholds alone detaches p.
    """
    batch, above = batchwise_mask(probs_TE, m), threshold_mask(probs_TE, threshold_E)
    loss = 0 * threshold_E.sum()
    for t in range(len(probs_TE)):
        for e in range(len(threshold_E)):
            loss = loss + (above[t][e] - batch[t][e]) * (probs_TE[t, e] - threshold_E[e])
    return loss


def softmax_rows(logits_TE: Tensor) -> Tensor:
    return stacked([softmax(logits_E) for logits_E in logits_TE], logits_TE)


def stacked(rows: Iterable[Tensor], like: Tensor) -> Tensor:
    """The rows as a matrix; empty where there is none."""
    rows = list(rows)
    return torch.stack(rows) if rows else 0 * like


def running_totals(
    logits_TE: Tensor, totals_E: Tensor, margin: float, frozen: bool = False
) -> tuple[list[Edge], Tensor]:
    """Eigen 2013: a dense softmax gate without the experts whose total is more than `margin` above the mean total.

    Totals are of the examples before this one and of gates as they are after masking and renormalising; the paper
    leaves both open. `frozen` asks the totals from before the batch for every example of it. Returns the edges and
    the new totals, which carry no gradient.
    """
    before = totals_E.tolist()
    totals = totals_E.tolist()
    edges = []
    for t, logits_E in enumerate(logits_TE):
        seen = before if frozen else totals
        mean = sum(seen) / len(seen)
        open_experts = [e for e, total in enumerate(seen) if total - mean <= margin]
        found = weighted(t, softmax(logits_E), open_experts, normalize=True)
        totals = list(totals)
        for edge in found:
            totals[edge.expert] += edge.weight.item()
        edges += found
    return edges, torch.tensor(totals, dtype=torch.float64)
