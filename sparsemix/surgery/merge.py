"""Experts that are alike are merged, and the columns of the router that led to them share what becomes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from sparsemix.checks import check
from sparsemix.config import config
from sparsemix.experts import DenseConfig, TiedExpertsConfig
from sparsemix.interop.stored import StoredModel
from sparsemix.surgery.align import Stacks, aligned_order, averaged
from sparsemix.surgery.columns import check_count, check_keep, cuttable, num_groups
from sparsemix.surgery.edit import Edited, Theory, edited, ffn, mixture
from sparsemix.surgery.group import Groups, around_dominant, hierarchical, logit_similarity, output_similarity
from sparsemix.surgery.prune import frequency
from sparsemix.surgery.reorder import reordered
from sparsemix.surgery.shards import stacked_kind, stacked_names
from sparsemix.surgery.text import Text
from sparsemix.surgery.walk import Step, walk_mixtures
from sparsemix.tensors import Recipe

Columns = Literal["share", "drop"]


@config
class MergeConfig:
    """How many experts each mixture has afterwards, and which are merged."""

    keep: int | None = Field(None, ge=1)
    """Distinct experts of each mixture afterwards; None: half of them."""
    similarity: Literal["logits", "outputs"] = "logits"
    """What makes experts alike: the router's logits for them (M-SMoE), or what they make of the text."""
    grouping: Literal["dominant", "hierarchical"] = "dominant"
    """Around the most used ones (M-SMoE), or by clustering (HC-SMoE, with the similarity of outputs)."""
    align: bool = True
    """Bring the hidden units of merged experts into one order first; its time grows with the cube of their number."""
    columns: Columns = "share"
    """All columns of the router stay, and those of a group share an expert; or only the column of each group's most
    used expert stays, as in REAM (2604.04356): an ordinary mixture, but with other choices and weights."""


def merge_experts(model: StoredModel, settings: MergeConfig, text: Text) -> Edited:
    """Experts in groups, each group averaged by how often the text's tokens choose its members.

    The decisions are the `Groups` of each layer, with which `share_experts` repeats it.

    Raises:
        ValueError: the experts do not lie in stacked matrices, or there are fewer of them.

    Source: M-SMoE (2310.01334); HC-SMoE (2410.08589).
    """
    moe = mixture(model)
    stacked_kind(moe.experts, "merging")
    keep = settings.keep or moe.num_experts // 2
    check_count(moe, keep)
    if settings.columns == "drop":
        _check_droppable(model, keep)
    groups: dict[int, Groups] = {}
    alike = True
    for step in walk_mixtures(model, text.batches):
        groups[step.layer] = _grouped(step, settings, keep)
        alike = alike and _are_equal(step, groups[step.layer])
    after = share_experts(model, groups, align=settings.align, columns=settings.columns)
    decisions: Mapping[str, Any] = {"layers": {str(layer): found._asdict() for layer, found in groups.items()}}
    return Edited(after, _theory(settings.columns, moe.num_experts - keep, alike), decisions)


def share_experts(
    model: StoredModel, groups: Mapping[int, Groups], *, align: bool = True, columns: Columns = "share"
) -> StoredModel:
    """The model with these groups of experts, by layer, each merged into one.

    Raises:
        ValueError: the experts do not lie in stacked matrices, or layers do not have the same number of groups.
    """
    moe = mixture(model)
    kind = stacked_kind(moe.experts, "merging")
    counts = {len(found.dominant) for found in groups.values()}
    check(len(counts) == 1, "groups", "must be as many in each layer", sorted(counts))
    check(groups.keys() == set(model.config.moe_layers), "groups", "must be given for each mixture", sorted(groups))
    keep = counts.pop()
    recipes: dict[str, Recipe] = {}
    if columns == "drop":
        _check_droppable(model, keep)
        new = replace(moe, num_experts=keep)
        for layer, found in groups.items():
            recipes |= _merged(layer, kind, found, align, ffn(layer))
            recipes |= reordered(model, layer, "router", found.dominant)
    else:
        new = replace(moe, experts=TiedExpertsConfig(num_distinct=keep, experts=kind))
        for layer, found in groups.items():
            recipes |= _merged(layer, kind, found, align, f"{ffn(layer)}experts.")
            recipes[f"{ffn(layer)}experts.owner_E"] = Recipe((), lambda _, owner=found.owner: torch.tensor(owner))
    return edited(model, replace(model.config, moe=new), recipes)


class _Merging:
    """Merges the experts of one layer; the order of units is found once for all of its tensors."""

    def __init__(self, groups: Groups, align: bool) -> None:
        self.groups, self.align = groups, align
        self.orders: list[list[Tensor]] = []

    def __call__(self, found: Sequence[Tensor], index: int) -> Tensor:
        """Tensor number `index` of the merged experts, (groups, ...)."""
        keep, stacks = len(self.groups.dominant), Stacks(*found)
        if found[0].is_meta:
            return found[index].new_empty(keep, *found[index].shape[1:])
        if not self.orders:
            self.orders = [self._orders(stacks, group) for group in range(keep)]
        merged = torch.empty(keep, *found[index].shape[1:], dtype=found[index].dtype)
        for group in range(keep):
            members, shares = self.groups.members(group), self.groups.shares(group)
            merged[group] = averaged(stacks, index, members, shares, self.orders[group])
        return merged

    def _orders(self, stacks: Stacks, group: int) -> list[Tensor]:
        dominant, as_it_is = self.groups.dominant[group], torch.arange(stacks.down_EDF.shape[2])
        return [
            aligned_order(stacks, expert, dominant) if self.align and expert != dominant else as_it_is
            for expert in self.groups.members(group)
        ]


def _merged(layer: int, kind: DenseConfig, groups: Groups, align: bool, prefix: str) -> dict[str, Recipe]:
    """Recipes of the merged experts of a layer, under names with this prefix."""
    names, merging = stacked_names(kind), _Merging(groups, align)
    inputs = tuple(ffn(layer) + name for name in names)
    return {
        prefix + name: Recipe(inputs, lambda found, index=index: merging(found, index))
        for index, name in enumerate(names)
    }


def _grouped(step: Step, settings: MergeConfig, keep: int) -> Groups:
    similarity_EE = logit_similarity(step) if settings.similarity == "logits" else output_similarity(step)
    group = around_dominant if settings.grouping == "dominant" else hierarchical
    return group(similarity_EE, frequency(step).tolist(), keep)


def _are_equal(step: Step, groups: Groups) -> bool:
    """Whether all experts of a group have the same weights."""
    stacks = list(step.block.get_submodule("ffn.experts").parameters())
    pairs = [(expert, groups.dominant[group]) for expert, group in enumerate(groups.owner)]
    return all(stack[one].equal(stack[other]) for one, other in pairs for stack in stacks if one != other)


def _check_droppable(model: StoredModel, keep: int) -> None:
    moe = cuttable(model, "dropping columns")
    check_keep(moe, keep)
    groups, remedy = num_groups(moe.router), "use columns='share'"
    check(groups == 1, "columns", "must be shared where the router has groups of experts", groups, remedy)


def _theory(columns: Columns, num_merged: int, alike: bool) -> Theory:
    if num_merged == 0:
        return Theory(True, "no experts are merged")
    if columns == "drop":
        return Theory(False, "without some columns of the router, tokens have other experts and weights")
    if alike:
        return Theory(True, "the experts that were merged are equal, and all columns of the router stay")
    return Theory(False, "experts that were merged differ")
