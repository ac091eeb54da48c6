"""Which experts of a mixture are alike: by their columns of the router, or by what they make of text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sparsemix.checks import check
from sparsemix.surgery.outputs import all_outputs
from sparsemix.surgery.walk import Step


class Groups(NamedTuple):
    """Experts of a mixture in groups, which are numbered in the order of their most used members."""

    owner: tuple[int, ...]
    """The group of each expert."""
    dominant: tuple[int, ...]
    """The most used expert of each group; in order."""
    frequency: tuple[float, ...]
    """Share of all choices that each expert has."""

    def members(self, group: int) -> list[int]:
        """Its experts, in order."""
        return [expert for expert, owner in enumerate(self.owner) if owner == group]

    def shares(self, group: int) -> list[float]:
        """What each member weighs in an average: by frequency; equally where nobody chose any of them."""
        used = [self.frequency[expert] for expert in self.members(group)]
        total = sum(used)
        return [one / total for one in used] if total else [1 / len(used)] * len(used)


def logit_similarity(step: Step) -> Tensor:
    """Cosine of every two columns of router logits over all tokens, (E, E) in float64.

    Raises:
        ValueError: the router has none.
    """
    products: list[Tensor] = []
    for mixed in step.mixed:
        logits_TE = mixed.routing.logits_TE
        remedy = "use similarity='outputs'"
        check(
            logits_TE is not None, "similarity", "must not be of logits with a router that has none", "logits", remedy
        )
        assert logits_TE is not None
        products.append(logits_TE.double().T @ logits_TE.double())
    return _cosine(torch.stack(products).sum(0))


def output_similarity(step: Step) -> Tensor:
    """Cosine of every two experts' outputs over all tokens, whoever they were routed to, (E, E) in float64."""
    experts = step.moe.experts
    products = [
        torch.einsum("tid,tjd->ij", y_TED, y_TED).double()
        for mixed in step.mixed
        for y_TED in all_outputs(experts, mixed.x_TD)
    ]
    return _cosine(torch.stack(products).sum(0))


def around_dominant(similarity_EE: Tensor, frequency: Sequence[float], keep: int) -> Groups:
    """The `keep` most used experts, each with all others that are more like it than like any other of these.

    Source: M-SMoE (2310.01334). Differs: as many in every layer, where it is the most used ones of all layers together.
    """
    by_use = sorted(range(len(frequency)), key=lambda expert: -frequency[expert])
    dominant = sorted(by_use[:keep])
    nearest = similarity_EE[:, dominant].argmax(dim=1).tolist()
    owner = [dominant.index(expert) if expert in dominant else nearest[expert] for expert in range(len(frequency))]
    return Groups(tuple(owner), tuple(dominant), tuple(frequency))


def hierarchical(similarity_EE: Tensor, frequency: Sequence[float], keep: int) -> Groups:
    """Clusters in which the two of largest mean similarity are joined until `keep` are left.

    Source: HC-SMoE (2410.08589), average linkage. Differs: by cosine over all tokens, where it is the Euclidean
    distance of mean outputs.
    """
    clusters = [[expert] for expert in range(len(frequency))]
    while len(clusters) > keep:
        first, second = _nearest(similarity_EE, clusters)
        joined = sorted(clusters[first] + clusters[second])
        clusters = [one for index, one in enumerate(clusters) if index not in (first, second)] + [joined]
    by_dominant = sorted((max(cluster, key=lambda expert: frequency[expert]), cluster) for cluster in clusters)
    group_of = {expert: group for group, (_, cluster) in enumerate(by_dominant) for expert in cluster}
    owner = tuple(group_of[expert] for expert in range(len(frequency)))
    return Groups(owner, tuple(dominant for dominant, _ in by_dominant), tuple(frequency))


def _nearest(similarity_EE: Tensor, clusters: Sequence[Sequence[int]]) -> tuple[int, int]:
    member_CE = torch.zeros(len(clusters), len(similarity_EE), dtype=similarity_EE.dtype, device=similarity_EE.device)
    for index, cluster in enumerate(clusters):
        member_CE[index, list(cluster)] = 1 / len(cluster)
    mean_CC = (member_CE @ similarity_EE @ member_CE.T).fill_diagonal_(-torch.inf)
    first, second = divmod(int(mean_CC.argmax()), len(clusters))
    return first, second


def _cosine(products_EE: Tensor) -> Tensor:
    norm_E = products_EE.diagonal().sqrt().clamp(min=1e-300)
    return products_EE / norm_E / norm_E[:, None]
