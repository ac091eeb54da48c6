"""Which experts of a mixture are alike: by their columns of the router, or by what they make of text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sparsemix.checks import check, require
from sparsemix.surgery.outputs import all_outputs
from sparsemix.surgery.walk import Step


class Groups(NamedTuple):
    """Experts of a mixture in groups, which are numbered by their first members in the order of experts."""

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
    """Clusters of least mean distance 1 - similarity, the two nearest joined until `keep` are left.

    Source: HC-SMoE (2410.08589), average linkage.
    """
    hierarchy = require("scipy.cluster.hierarchy", "to cluster experts")
    distance_EE = (1 - similarity_EE).clamp(min=0).cpu()
    above = torch.triu_indices(*distance_EE.shape, offset=1)
    tree = hierarchy.linkage(distance_EE[above[0], above[1]].numpy(), "average")
    labels = hierarchy.cut_tree(tree, n_clusters=keep)[:, 0].tolist()
    clusters = [[expert for expert, one in enumerate(labels) if one == label] for label in range(keep)]
    dominant = {max(cluster, key=lambda expert: frequency[expert]): cluster for cluster in clusters}
    order = sorted(dominant)
    owner = [next(group for group, d in enumerate(order) if e in dominant[d]) for e in range(len(frequency))]
    return Groups(tuple(owner), tuple(order), tuple(frequency))


def _cosine(products_EE: Tensor) -> Tensor:
    norm_E = products_EE.diagonal().sqrt().clamp(min=1e-300)
    return products_EE / norm_E / norm_E[:, None]
