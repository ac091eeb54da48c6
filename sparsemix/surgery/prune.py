"""Experts that text does without are removed, with their columns of the router."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from sparsemix.checks import check
from sparsemix.config import config
from sparsemix.interop.stored import StoredModel
from sparsemix.layer import MoEConfig
from sparsemix.routers import RouterConfig
from sparsemix.routing import load
from sparsemix.surgery.columns import check_keep, cuttable, indifferent, num_groups
from sparsemix.surgery.edit import Edited, Theory, edited
from sparsemix.surgery.outputs import edge_norms
from sparsemix.surgery.reconstruct import Reconstruction, exhaustive, greedy
from sparsemix.surgery.reorder import reordered
from sparsemix.surgery.text import Text
from sparsemix.surgery.walk import Step, walk_mixtures
from sparsemix.tensors import Recipe


class Choice(NamedTuple):
    """Which experts of a mixture are kept."""

    kept: tuple[int, ...]
    """In order."""
    scores: tuple[float, ...] = ()
    """Of each expert, kept or not: the higher, the more it matters."""
    error: float | None = None
    """sum over batches of ||Z - Z'||_F."""


@config
class FrequencyConfig:
    """Keep the experts that most tokens choose."""

    type: Literal["frequency"] = "frequency"

    def choose(self, step: Step, keep: int, groups: int) -> Choice:
        """The `keep` experts of the highest scores, the same number of each group."""
        return _highest(frequency(step), keep, groups)


@config
class REAPConfig:
    """Keep the experts whose weighted outputs are the largest, on average over the tokens that choose them.

    Source: REAP (2510.13999).
    """

    type: Literal["reap"] = "reap"

    def choose(self, step: Step, keep: int, groups: int) -> Choice:
        """The `keep` experts of the highest scores, the same number of each group."""
        return _highest(saliency(step), keep, groups)


@config
class NAEEConfig:
    """Keep the set of experts that alone best give what all of them gave.

    Source: 2402.14800. Differs: each layer sees what the layers below it gave before they were pruned.
    """

    type: Literal["naee"] = "naee"
    search: Literal["exhaustive", "greedy"] = "exhaustive"
    """Look at every set, or remove one expert after the other, each time the one that is missed the least."""
    most_sets: int = Field(20_000, ge=1)
    """Refuse an exhaustive search of more sets than that."""

    def choose(self, step: Step, keep: int, groups: int) -> Choice:
        """The `keep` experts of the least error, the same number of each group.

        Raises:
            ValueError: too many sets; or groups, of which a greedy search knows nothing.
        """
        found = Reconstruction(step)
        if self.search == "exhaustive":
            kept = exhaustive(found, keep, groups, self.most_sets)
        else:
            check(groups == 1, "search", "must be exhaustive where the router has groups", "greedy")
            kept = greedy(found, keep)
        return Choice(kept, error=found.error(kept))


Criterion = Annotated[FrequencyConfig | REAPConfig | NAEEConfig, Field(discriminator="type")]


@config
class PruneConfig:
    """How many experts each mixture keeps, and which."""

    keep: int | None = Field(None, ge=1)
    """Experts of each mixture afterwards; None: half of them."""
    by: Criterion = REAPConfig()
    """What tells which."""


def prune(model: StoredModel, settings: PruneConfig, text: Text) -> Edited:
    """The model without the experts that matter the least on the text.

    The decisions are the kept experts of each layer, with which `keep_experts` repeats it, and all scores.

    Raises:
        ValueError: the mixture is of a kind that cannot be pruned, or fewer experts would be left than a token goes to.
    """
    moe = cuttable(model, "pruning")
    keep, groups = settings.keep or moe.num_experts // 2, num_groups(moe.router)
    check_keep(moe, keep)
    choices, lost = {}, 0
    for step in walk_mixtures(model, text.batches):
        choice = settings.by.choose(step, keep, groups)
        choices[step.layer] = choice
        used = {expert for expert, share in enumerate(frequency(step).tolist()) if share > 0}
        lost += not used <= {*choice.kept}
    after = keep_experts(model, {layer: choice.kept for layer, choice in choices.items()})
    theory = _theory(moe.router, lost) if keep < moe.num_experts else Theory(True, "no experts are removed")
    return Edited(after, theory, {"layers": {str(n): c._asdict() for n, c in choices.items()}})


def keep_experts(model: StoredModel, kept: Mapping[int, Sequence[int]]) -> StoredModel:
    """The model with these experts of each mixture, by layer.

    Raises:
        ValueError: the mixture is of a kind that cannot be pruned, layers or groups do not keep the same number of
            experts, or these are not experts in order.
    """
    moe = cuttable(model, "pruning")
    counts = {len(experts) for experts in kept.values()}
    check(len(counts) == 1, "kept", "must be as many experts in each layer", sorted(counts))
    check(kept.keys() == set(model.config.moe_layers), "kept", "must say it for each mixture", sorted(kept))
    recipes: dict[str, Recipe] = {}
    for layer, experts in kept.items():
        _check_kept(moe, layer, experts)
        recipes |= reordered(model, layer, "router", experts) | reordered(model, layer, "experts", experts)
    return edited(model, replace(model.config, moe=replace(moe, num_experts=counts.pop())), recipes)


def _check_kept(moe: MoEConfig, layer: int, experts: Sequence[int]) -> None:
    rule, num_experts = f"must be experts in order, of the {moe.num_experts} there are", moe.num_experts
    check([*experts] == sorted({*experts} & {*range(num_experts)}), f"kept: layer {layer}", rule, experts)
    groups = num_groups(moe.router)
    counts = Counter(expert * groups // num_experts for expert in experts)
    equal = len(counts) == groups and len({*counts.values()}) == 1
    check(equal, f"kept: layer {layer}", f"must be as many of each of the {groups} groups", experts)


def frequency(step: Step) -> Tensor:
    """Share of all choices of tokens that each expert has, (E,); 0 where there are no choices."""
    num_experts = step.moe.experts.num_experts
    counts = torch.stack([load(mixed.routing, num_experts) for mixed in step.mixed])
    count_E = counts.sum(0).double().cpu()
    return count_E / count_E.sum().clamp(min=1)


def saliency(step: Step) -> Tensor:
    """S_e = mean over the tokens that choose e of g_e(x) ||f_e(x)||_2, (E,); 0 where none does."""
    num_experts = step.moe.experts.num_experts
    total_E, count_E = torch.zeros(2, num_experts, dtype=torch.float64)
    for x_TD, _, routing in step.mixed:
        norm_N = edge_norms(step.moe.experts, x_TD, routing.token_N, routing.expert_N)
        total_E.index_add_(0, routing.expert_N.cpu(), (routing.weight_N * norm_N).double().cpu())
        count_E += load(routing, num_experts).cpu()
    return total_E / count_E.clamp(min=1)


def _highest(score_E: Tensor, keep: int, groups: int) -> Choice:
    """Those of the highest scores in each group, the first of equal ones."""
    size = len(score_E) // groups
    order = score_E.view(groups, size).argsort(dim=1, descending=True, stable=True)[:, : keep // groups]
    kept = (order + size * torch.arange(groups)[:, None]).flatten().sort().values
    return Choice(tuple(kept.tolist()), tuple(score_E.tolist()))


def _theory(router: RouterConfig, lost: int) -> Theory:
    if lost:
        return Theory(False, f"tokens of the text chose experts that were removed, in {lost} layers")
    if not indifferent(router):
        return Theory(False, "no token of the text chose a removed expert, but these took part in all weights")
    return Theory(True, "no token of the text chose a removed expert, and weights depend on chosen ones alone")
